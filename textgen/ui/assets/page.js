(() => {
  "use strict";
  const COOKIE = "textgen_language";
  const KEEP = "textgen_document";

  const cookie = document.cookie.split("; ").find((part) => part.startsWith(COOKIE + "="));
  const chosen = cookie ? cookie.slice(COOKIE.length + 1) : "";
  if (chosen === "zh" || chosen === "en") {
    // Gradio takes the page's language from the browser; the choice made on the page comes before it.
    const tag = chosen === "zh" ? "zh-CN" : "en";
    Object.defineProperty(navigator, "language", { get: () => tag, configurable: true });
    Object.defineProperty(navigator, "languages", { get: () => [tag], configurable: true });
  }
  const language = () => (navigator.language || "en").toLowerCase().startsWith("zh") ? "zh" : "en";
  document.documentElement.lang = language() === "zh" ? "zh-CN" : "en";

  const box = () => document.querySelector("#document textarea");

  window.textgenSwitchLanguage = () => {
    const next = language() === "zh" ? "en" : "zh";
    document.cookie = `${COOKIE}=${next}; path=/; max-age=31536000; SameSite=Lax`;
    // The page is drawn anew in the other language; what was written must survive that.
    if (box()) sessionStorage.setItem(KEEP, box().value);
    location.reload();
  };

  const restore = () => {
    const kept = sessionStorage.getItem(KEEP);
    if (kept === null) return true;
    const area = box();
    if (!area) return false;
    sessionStorage.removeItem(KEEP);
    area.value = kept;
    area.dispatchEvent(new Event("input", { bubbles: true }));
    return true;
  };

  const watcher = new MutationObserver(() => { if (restore()) watcher.disconnect(); });
  watcher.observe(document, { childList: true, subtree: true });

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
