// Text ⇄ token ids with the vocabulary in tokenizer.json, cut as SentencePiece cuts it, to the token.

const SPACE = "\u2581"; // stands for the space in pieces
const PASSAGE = 4096; // characters that are cut at once, as when the model learned

export class Tokenizer {
  constructor({ kind, pieces, unk_id, bos_id, eos_id, pad_id }) {
    this.size = pieces.length;
    this.bosId = bos_id;
    this.eosId = eos_id;
    this.neverIds = [unk_id, bos_id, pad_id]; // mean nothing in a text that is to be written
    this.bytes = pieces.map(([piece, , type]) => bytesOf(piece, type));
    this.byteIds = new Map(pieces.flatMap(([, , type], id) => (type === "byte" ? [[this.bytes[id][0], id]] : [])));
    const usual = pieces.flatMap(([piece, score, type], id) =>
      type === "normal" || type === "symbol" ? [[piece, { id, score: Math.fround(score), whole: type === "symbol" }]] : [],
    );
    this.pieces = new Map(usual);
    this.cut = { unigram: unigramCutter, bpe: bpeCutter, char: () => (characters) => characters }[kind](this.pieces);
    // What SentencePiece would take for something else is spelled in bytes.
    this.spelled = new RegExp(this.pieces.has(SPACE) ? `(${SPACE})` : `([ ${SPACE}])`);
  }

  /** The ids of a text, without those of its beginning and end; half a surrogate pair is read as U+FFFD. */
  encode(text) {
    return text.toWellFormed().split(this.spelled).flatMap((part, number) => {
      if (number % 2) return this.spell(part);
      return passages([...part]).flatMap((passage) => {
        const pieces = this.cut(passage.map((character) => (character === " " ? SPACE : character)));
        return pieces.flatMap((piece) => (this.pieces.has(piece) ? this.pieces.get(piece).id : this.spell(piece)));
      });
    });
  }

  /** The text of ids; bytes that are no UTF-8 become U+FFFD. */
  decode(ids) {
    const decoder = this.decoder();
    return ids.map(decoder).join("") + decoder();
  }

  /** A function for ids that come one at a time: the characters that each completes; without an id, what is left. */
  decoder() {
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    return (id) => (id === undefined ? decoder.decode() : decoder.decode(this.bytes[id], { stream: true }));
  }

  spell(text) {
    return Array.from(utf8(text), (byte) => this.byteIds.get(byte));
  }
}

function utf8(text) {
  return new TextEncoder().encode(text);
}

function bytesOf(piece, type) {
  if (type === "byte") return Uint8Array.of(Number.parseInt(piece.slice(3, 5), 16));
  return utf8(type === "normal" || type === "symbol" ? piece.replaceAll(SPACE, " ") : "");
}

/** Characters in passages that end after a line, else before a space, else anywhere. */
function passages(characters) {
  const found = [];
  let start = 0;
  while (characters.length - start > PASSAGE) {
    const window = characters.slice(start, start + PASSAGE);
    const length = window.lastIndexOf("\n") + 1 || Math.max(window.lastIndexOf(" "), 0) || PASSAGE;
    found.push(window.slice(0, length));
    start += length;
  }
  return start < characters.length ? [...found, characters.slice(start)] : found;
}

/** The likeliest pieces (Kudo 2018), in sums of 32 bits as SentencePiece has them, so that ties fall the same way. */
function unigramCutter(pieces) {
  let longest = 1;
  let lowest = Infinity;
  for (const [piece, { score, whole }] of pieces) {
    longest = Math.max(longest, [...piece].length);
    if (!whole) lowest = Math.min(lowest, score);
  }
  const unknown = Math.fround(lowest - 10);
  return (characters) => {
    const best = [{ score: 0 }]; // ways to the place before each character
    const offer = (start, end, piece, score) => {
      const total = Math.fround(best[start].score + score);
      if (!best[end] || total > best[end].score) best[end] = { score: total, start, piece };
    };
    for (let start = 0; start < characters.length; start++) {
      if (!pieces.has(characters[start])) offer(start, start + 1, characters[start], unknown);
      let piece = "";
      for (let end = start + 1; end <= Math.min(start + longest, characters.length); end++) {
        piece += characters[end - 1];
        if (pieces.has(piece)) offer(start, end, piece, pieces.get(piece).score);
      }
    }
    const cut = [];
    for (let end = characters.length; end > 0; end = best[end].start) cut.push(best[end].piece);
    return cut.reverse();
  };
}

/** Neighbours become one, those with the best score first and the left of equals (Sennrich et al. 2016). */
function bpeCutter(pieces) {
  const joined = (left, right) => {
    if (right === undefined || pieces.get(left)?.whole || pieces.get(right)?.whole) return -Infinity;
    return pieces.get(left + right)?.score ?? -Infinity;
  };
  return (characters) => {
    const cut = [...characters];
    const scores = cut.map((piece, place) => joined(piece, cut[place + 1]));
    for (;;) {
      const best = scores.reduce((one, score, place) => (score > scores[one] ? place : one), 0);
      if (!(scores[best] > -Infinity)) return cut;
      cut.splice(best, 2, cut[best] + cut[best + 1]);
      scores.splice(best + 1, 1);
      scores[best] = joined(cut[best], cut[best + 1]);
      if (best > 0) scores[best - 1] = joined(cut[best - 1], cut[best]);
    }
  };
}
