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

  const press = (id) => {
    const button = document.querySelector(id);
    if (button && !button.disabled) button.click();
  };

  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      // A text box hands its value on when it is left; without this the last keystrokes would be missing.
      if (document.activeElement === box()) box().dispatchEvent(new Event("input", { bubbles: true }));
      press("#generate");
    } else if (event.key === "Escape") {
      press("#stop");
    }
  }, true);
})();
