(() => {
  "use strict";
  const CHOICE = "textgen_language";

  const browserLanguage = () => (navigator.language || "en").toLowerCase().startsWith("zh") ? "zh" : "en";
  const language = () => {
    const chosen = localStorage.getItem(CHOICE);
    return chosen === "zh" || chosen === "en" ? chosen : browserLanguage();
  };

  // Gradio changes its language without a reload, but offers that only deep in its settings panel. Its own module,
  // which the page has loaded already, is asked directly; a browser test watches that it still answers.
  const speak = async (name) => {
    document.documentElement.lang = name === "zh" ? "zh-CN" : "en";
    const loaded = performance.getEntriesByType("resource").map((entry) => entry.name);
    const address = loaded.find((url) => /\/assets\/core-[\w-]+\.js$/.test(url));
    if (!address) return;
    const core = await import(address);
    core.changeLocale(name === "zh" ? "zh-CN" : "en");
  };

  window.textgenLanguage = () => {
    if (language() !== browserLanguage()) speak(language());
    document.documentElement.lang = language() === "zh" ? "zh-CN" : "en";
    return language();
  };
  window.textgenSwitchLanguage = async () => {
    localStorage.setItem(CHOICE, language() === "zh" ? "en" : "zh");
    await speak(language());
    return language();
  };

  const box = () => document.querySelector("#document textarea");

  // Every text that stood in the document and was replaced, oldest first; `at` is where Undo has come to.
  const history = { texts: [], at: -1 };
  window.textgenRemember = (text) => {
    if (history.at >= 0 && history.texts[history.at] === text) return;
    history.texts = [...history.texts.slice(0, history.at + 1), text].slice(-200);
    history.at = history.texts.length - 1;
  };
  const move = (text, by) => {
    window.textgenRemember(text);
    history.at = Math.min(Math.max(history.at + by, 0), history.texts.length - 1);
    return history.texts[history.at];
  };
  window.textgenUndo = (text) => move(text, -1);
  window.textgenRedo = (text) =>
    history.texts[history.at] === text ? move(text, 1) : text;
  window.textgenReplace = (text, other) => {
    window.textgenRemember(text);
    window.textgenRemember(other);
    return other;
  };

  const write = (text) => {
    box().value = text;
    box().dispatchEvent(new Event("input", { bubbles: true }));
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest && event.target.closest("#hypotheses .take");
    if (button && box()) write(window.textgenReplace(box().value, button.dataset.text));
  });

  // While the model writes, what is typed would be overwritten: the box takes no keys, but keeps the focus.
  new MutationObserver(() => {
    const stop = document.querySelector("#stop");
    if (stop && box()) box().readOnly = !stop.disabled;
  }).observe(document, { attributes: true, attributeFilter: ["disabled"], childList: true, subtree: true });

  const press = (id) => {
    const button = document.querySelector(id);
    if (button && !button.disabled) button.click();
  };

  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      // A text box hands its value on when it is left; without this the last keystrokes would be missing.
      const active = document.activeElement;
      if (active === box()) {
        box().dispatchEvent(new Event("input", { bubbles: true }));
        press("#generate");
      } else {
        // A number box puts a value into its range when it is left.
        if (active) active.blur();
        setTimeout(() => press("#generate"), 80);
      }
    } else if (event.key === "Escape") {
      press("#stop");
    }
  }, true);
})();
