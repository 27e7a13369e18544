// Continues a text with a model of this folder. `ort` is onnxruntime-web, which the page loads before this file.
import { Tokenizer } from "./tokenizer.js";

export async function load(file) {
  const vocabulary = fetch("tokenizer.json").then((response) => response.json());
  return { model: await ort.InferenceSession.create(file), tokenizer: new Tokenizer(await vocabulary) };
}

/** Yields what follows `prompt`, token by token; `settings` are named as in generation_config.json. */
export async function* generate({ model, tokenizer }, prompt, settings) {
  let ids = [tokenizer.bosId, ...tokenizer.encode(prompt)];
  const parts = model.inputMetadata.filter(({ name }) => name !== "token_ids");
  let state = Object.fromEntries(parts.map(({ name, shape }) => [name, zeros(shape[1])]));
  const decode = tokenizer.decoder();
  for (let count = 0; count < settings.max_new_tokens; count++) {
    const results = await model.run({ token_ids: new ort.Tensor("int64", ids, [1, ids.length]), ...state });
    state = Object.fromEntries(parts.map(({ name }) => [name, results[`next_${name}`]]));
    const logits = results.logits.data.subarray(-tokenizer.size); // those after the last token
    for (const id of tokenizer.neverIds) logits[id] = -Infinity;
    ids = [choose(logits, settings)];
    if (ids[0] === tokenizer.eosId) break;
    yield decode(ids[0]);
  }
  const left = decode(); // of a character that was never completed
  if (left) yield left;
}

const zeros = (size) => new ort.Tensor("float32", new Float32Array(size), [1, size]);

export function choose(logits, { temperature, top_k = 0, top_p = 1, min_p = 0 }) {
  const likeliest = logits.indexOf(logits.reduce((one, other) => Math.max(one, other)));
  if (temperature === 0) return likeliest;
  const weights = logits.map((logit) => Math.exp((logit - logits[likeliest]) / temperature));
  const ranked = Array.from(weights.keys()).sort((one, other) => weights[other] - weights[one]);
  const ids = ranked.slice(0, top_k || ranked.length);
  const most = top_p * ids.reduce((sum, id) => sum + weights[id], 0);
  let [mass, kept] = [0, 0];
  while (kept < ids.length && mass < most && weights[ids[kept]] >= min_p) mass += weights[ids[kept++]];
  let place = Math.random() * mass;
  return ids.slice(0, kept).find((id) => (place -= weights[id]) < 0) ?? likeliest;
}
