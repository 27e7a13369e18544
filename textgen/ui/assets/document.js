// The document and its past: every text that stood in it can be had back, with what was shown beside it.
(() => {
  "use strict";
  const MOST_TEXTS = 200;
  const MOST_VIEWS = 20;

  const box = () => document.querySelector("#document textarea");

  // Every text that was replaced, oldest first; `at` is where Undo has come to.
  const history = { texts: [], at: -1 };
  // Text → what was shown with it, [status, results, tokens], and the query that the address had; the newest last.
  const views = new Map();
  const nothing = { shown: ["", "", ""], query: null };
  // The text that the box has or, when Gradio still has to draw it, is about to have.
  let current = null;

  // A text box knows one kind of line end only; a model may write others.
  const plain = (text) => text.replace(/\r\n?/g, "\n");

  const keepView = (given, view) => {
    const text = plain(given);
    views.delete(text);
    views.set(text, view);
    if (views.size > MOST_VIEWS) views.delete(views.keys().next().value);
  };
  const withView = (text) => {
    const view = views.get(plain(text)) || nothing;
    if (view.query !== null) window.textgenAddress(view.query);
    refreshSoon(text);
    return [text, ...view.shown];
  };

  // What follows from the text in the box: which tokens it leaves out, which result it is, what Undo and Redo can do.
  const refresh = (given) => {
    if (given !== undefined) current = given;
    else if (current === null) current = box() ? box().value : "";
    const text = plain(current);
    document.dispatchEvent(new CustomEvent("textgen-text", { detail: text }));
    for (const button of document.querySelectorAll("#results .take")) {
      button.closest("li").classList.toggle("taken", plain(button.dataset.text) === text);
    }
    const here = history.at >= 0 && history.texts[history.at] === text;
    const able = { undo: history.at > 0 || (history.at === 0 && !here), redo: here && history.at < history.texts.length - 1 };
    for (const [id, can] of Object.entries(able)) {
      const button = document.getElementById(id);
      if (button) button.setAttribute("aria-disabled", String(!can));
    }
  };

  // Gradio draws what changes some moments later, and leaves alone what stays as it was; by then the document may have
  // become another.
  const refreshSoon = (text) => {
    current = text;
    for (const wait of [0, 80, 300]) setTimeout(refresh, wait);
  };

  window.textgenRemember = (given) => {
    const text = plain(given);
    if (history.at >= 0 && history.texts[history.at] === text) return;
    history.texts = [...history.texts.slice(0, history.at + 1), text].slice(-MOST_TEXTS);
    history.at = history.texts.length - 1;
  };
  const move = (text, by) => {
    window.textgenRemember(text);
    history.at = Math.min(Math.max(history.at + by, 0), history.texts.length - 1);
    return withView(history.texts[history.at]);
  };
  window.textgenUndo = (text) => move(text, -1);
  window.textgenRedo = (text) => (history.texts[history.at] === plain(text) ? move(text, 1) : withView(text));
  window.textgenReplace = (text, other) => {
    window.textgenRemember(text);
    window.textgenRemember(other);
    return withView(other);
  };

  // A run has ended: what is shown now belongs to the text that it made.
  let shown = nothing;
  window.textgenShown = (text, status, results, tokens, query) => {
    window.textgenRemember(text);
    shown = { shown: [status, results, tokens], query };
    window.textgenAddress(query);
    keepView(text, shown);
    refreshSoon(text);
  };

  // Puts another text into the document; what is shown stays and belongs to it as well.
  window.textgenWrite = (text) => {
    window.textgenRemember(box().value);
    window.textgenRemember(text);
    keepView(text, shown);
    box().value = text;
    box().dispatchEvent(new Event("input", { bubbles: true }));
    box().scrollTop = box().scrollHeight;
    box().setSelectionRange(text.length, text.length);
    refresh(text);
  };
  document.addEventListener("input", ({ target }) => { if (target === box()) refresh(box().value); });
  document.addEventListener("DOMContentLoaded", () => setTimeout(refresh, 1000));
  document.addEventListener("click", (event) => {
    const button = event.target.closest && event.target.closest("#results .take");
    if (button && box() && !box().readOnly) window.textgenWrite(button.dataset.text);
  });

  // While the model writes, what is typed would be overwritten: the box takes no keys, but keeps the focus. Its newest
  // lines stay in sight unless someone scrolls away from them.
  let running = false;
  let following = true;
  document.addEventListener("scroll", ({ target }) => {
    if (target === box()) following = target.scrollTop + target.clientHeight >= target.scrollHeight - 40;
  }, true);
  new MutationObserver(() => {
    const stop = document.querySelector("#stop");
    if (!stop || !box()) return;
    const before = running;
    running = !stop.disabled;
    box().readOnly = running;
    if (running && !before) following = true;
    if ((running || before) && following) {
      requestAnimationFrame(() => { if (box()) box().scrollTop = box().scrollHeight; });
    }
  }).observe(document, { attributes: true, attributeFilter: ["disabled"], childList: true, subtree: true });
})();
