// A finished text: its tokens answer to clicks and keys with what else they might have been.
(() => {
  "use strict";
  let open = null; // { card, token } of the card that is open

  const element = (name, className, text) => {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const visible = (text, labels) =>
    text === ""
      ? `⏹ ${labels.end_of_text}`
      : text.replace(/\n/g, "↵").replace(/\t/g, "⇥").replace(/^ +| +$/g, (spaces) => "␣".repeat(spaces.length));

  const tokensOf = (group) => [...group.querySelectorAll(":scope > [role=button]")];
  const dataOf = (group) => {
    // Gradio may draw the next text into the same element.
    if (group.parsedFrom !== group.dataset.tokens) {
      group.parsed = JSON.parse(group.dataset.tokens);
      group.parsedFrom = group.dataset.tokens;
    }
    return group.parsed;
  };
  const textUpTo = (group, count) =>
    group.dataset.prompt + dataOf(group).slice(0, count).map(([text]) => text).join("");

  const close = (refocus) => {
    if (!open) return;
    const { card, token } = open;
    open = null;
    card.remove();
    token.classList.remove("chosen");
    if (refocus) token.focus();
  };

  const rewind = (group, count) => {
    close(true);
    window.textgenWrite(textUpTo(group, count));
  };
  // What the document was cut before is still there to be read and to go back to, only paler.
  const showCut = (group, text) => {
    const plain = (part) => part.replace(/\r\n?/g, "\n");
    const tokens = tokensOf(group);
    const whole = plain(textUpTo(group, tokens.length));
    const isCut = text.length < whole.length && text.length >= plain(group.dataset.prompt).length && whole.startsWith(text);
    let length = plain(group.dataset.prompt).length;
    dataOf(group).forEach(([part], number) => {
      length += plain(part).length;
      tokens[number].classList.toggle("cut", isCut && length > text.length);
    });
  };
  document.addEventListener("textgen-text", ({ detail }) => {
    document.querySelectorAll("#tokens .tokens").forEach((group) => showCut(group, detail));
  });
  const goOnWith = (group, number, text) => {
    close(false);
    window.textgenWrite(textUpTo(group, number) + text);
    if (text !== "") document.querySelector("#generate").click();
  };

  const alternative = (group, number, [text, percent], labels) => {
    const own = dataOf(group)[number][0] === text;
    const item = element("li");
    const row = element(own ? "div" : "button", own ? "alternative own" : "alternative");
    if (own) row.setAttribute("aria-current", "true");
    else {
      row.type = "button";
      row.addEventListener("click", () => goOnWith(group, number, text));
    }
    const bar = element("span", "bar");
    bar.style.setProperty("--share", percent.replace(/[<>% ]/g, ""));
    row.append(element("span", "word", visible(text, labels)), bar, element("span", "percent", percent));
    item.append(row);
    return item;
  };

  const button = (label, action, className = "quiet") => {
    const made = element("button", className, label);
    made.type = "button";
    made.addEventListener("click", action);
    return made;
  };

  const buildCard = (group, number, token) => {
    const labels = JSON.parse(group.dataset.labels);
    const [text, drawn, alternatives] = dataOf(group)[number];
    const card = element("div", "token-card");
    card.setAttribute("role", "dialog");
    card.setAttribute("aria-label", labels.alternatives_title);
    const head = element("header");
    head.append(element("strong", "word", visible(text, labels)), element("span", "percent", token.title));
    const shut = button("×", () => close(true), "close");
    shut.setAttribute("aria-label", labels.close);
    head.append(shut);
    card.append(head, element("p", "hint", labels.token_drawn.replace("{percent}", drawn)));
    const others = alternatives.some(([other]) => other !== text);
    card.append(element("h4", "", others ? labels.alternatives_title : labels.no_alternatives));
    const list = element("ul");
    list.append(...(others ? alternatives.map((one) => alternative(group, number, one, labels)) : []));
    const actions = element("footer");
    actions.append(
      button(labels.rewind, () => rewind(group, number + 1)),
      button(labels.rewind_before, () => rewind(group, number)),
    );
    card.append(list, actions);
    return card;
  };

  const place = (card, token) => {
    const at = token.getClientRects()[0] || token.getBoundingClientRect();
    const width = document.documentElement.clientWidth;
    const left = Math.min(Math.max(8, at.left - 12), width - card.offsetWidth - 8);
    const below = at.bottom + 6;
    const above = at.top - card.offsetHeight - 6;
    const fits = below + card.offsetHeight <= window.innerHeight || above < 0;
    card.style.left = `${left + window.scrollX}px`;
    card.style.top = `${(fits ? below : above) + window.scrollY}px`;
  };

  const show = (token) => {
    const again = open && open.token === token;
    close(false);
    const stop = document.querySelector("#stop");
    if (again || (stop && !stop.disabled)) return;
    const group = token.parentElement;
    const card = buildCard(group, tokensOf(group).indexOf(token), token);
    document.body.append(card);
    open = { card, token };
    token.classList.add("chosen");
    place(card, token);
    (card.querySelector("button.alternative") || card.querySelector("footer button")).focus({ preventScroll: true });
  };

  const step = (items, from, by) => {
    const to = items[Math.min(Math.max(items.indexOf(from) + by, 0), items.length - 1)];
    if (!to) return;
    to.focus();
    if (to.getAttribute("role") === "button") {
      items.forEach((item) => { item.tabIndex = item === to ? 0 : -1; });
      to.scrollIntoView({ block: "nearest" });
    }
  };
  const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity };

  document.addEventListener("click", (event) => {
    const token = event.target.closest && event.target.closest(".tokens > [role=button]");
    if (token) show(token);
    else if (open && !open.card.contains(event.target)) close(false);
  });
  document.addEventListener("keydown", (event) => {
    if (!event.target.closest) return;
    const token = event.target.closest(".tokens > [role=button]");
    const card = event.target.closest(".token-card");
    if (event.key === "Escape" && open) {
      event.stopPropagation();
      close(true);
    } else if (token && (event.key === "Enter" || event.key === " ") && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      show(token);
    } else if (event.key in STEPS && (token || card)) {
      event.preventDefault();
      const items = token ? tokensOf(token.parentElement) : [...card.querySelectorAll("button")];
      step(items, token || document.activeElement, STEPS[event.key]);
    }
  }, true);
  // A card whose token has gone with the view that it was in has nothing to say any more.
  new MutationObserver(() => { if (open && !open.token.isConnected) close(false); })
    .observe(document, { childList: true, subtree: true });
  window.addEventListener("resize", () => { if (open) place(open.card, open.token); });
})();
