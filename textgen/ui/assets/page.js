// The page as a whole: its language, its address, its presets and its keys.
(() => {
  "use strict";
  const CHOICE = "textgen_language";

  const { locales, browsers } = window.textgenLanguages;
  const codes = Object.keys(locales);

  const tag = (navigator.language || "").toLowerCase();
  const browserLanguage = () => {
    const found = browsers.find(([beginning]) => tag === beginning || tag.startsWith(`${beginning}-`));
    return found ? found[1] : codes[0];
  };
  const language = () => {
    const chosen = localStorage.getItem(CHOICE);
    return codes.includes(chosen) ? chosen : browserLanguage();
  };

  // Gradio starts in the language of the browser, and is told here that this is the page's.
  const first = locales[language()];
  Object.defineProperty(navigator, "language", { configurable: true, get: () => first });

  // Later it changes without a reload, but offers that only deep in its settings panel. Its own module, which the page
  // has loaded already, is asked directly; a browser test watches that it still answers.
  const speak = async () => {
    const locale = locales[language()];
    document.documentElement.lang = locale;
    const loaded = performance.getEntriesByType("resource").map((entry) => entry.name);
    const address = loaded.find((url) => /\/assets\/core-[\w-]+\.js$/.test(url));
    if (!address) return;
    const core = await import(address);
    core.changeLocale(locale);
  };

  window.textgenLanguage = () => {
    speak();  // a language that Gradio has no words of its own for is none that it starts in
    return language();
  };
  window.textgenSwitchLanguage = async () => {
    localStorage.setItem(CHOICE, codes[(codes.indexOf(language()) + 1) % codes.length]);
    await speak();
    return language();
  };

  // The address holds the settings, without a reload and without a place in the browser's history. What Gradio itself
  // keeps there (its theme, say) stays.
  window.textgenAddress = (query) => {
    const own = [...new URLSearchParams(window.location.search)].filter(([name]) => name.startsWith("__"));
    const whole = [new URLSearchParams(own).toString(), query].filter(Boolean).join("&");
    window.history.replaceState(window.history.state, "", `${window.location.pathname}${whole && "?"}${whole}`);
  };
  const copy = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // No right to the clipboard (the page is inside a frame, or came unencrypted): the way of old.
      const helper = document.createElement("textarea");
      helper.value = text;
      document.body.append(helper);
      helper.select();
      document.execCommand("copy");
      helper.remove();
    }
  };
  document.addEventListener("click", async (event) => {
    const button = event.target.closest && event.target.closest("#status .link");
    if (!button || button.dataset.label) return;
    await copy(window.location.href);
    button.dataset.label = button.textContent;
    button.textContent = button.dataset.done;
    button.focus();
    setTimeout(() => {
      button.textContent = button.dataset.label;
      delete button.dataset.label;
    }, 2500);
  });

  // The preset whose values these are; null for none.
  window.textgenPreset = (presets, values) => {
    const same = ([, preset]) => preset.every((value, number) => Math.abs(value - values[number]) < 1e-9);
    const found = Object.entries(presets).find(same);
    return found ? found[0] : null;
  };

  // Clicks a link to a file as soon as the page has it.
  window.textgenDownload = (id) => {
    const link = document.querySelector(`#${id}`);
    const known = window.textgenDownload.last;
    const look = (left) => {
      const file = link && (link.href || (link.querySelector("a") || {}).href);
      if (file && file !== known) {
        window.textgenDownload.last = file;
        (link.href ? link : link.querySelector("a")).click();
      } else if (left) setTimeout(() => look(left - 1), 100);
      else if (link) link.click();
    };
    look(30);
  };

  // A page on which nothing trains asks for nothing, until somebody looks at it again. A window that lies beside others
  // is always visible; then it is the focus that comes back. Mostly both come at once.
  let lookedAt = 0;
  const lookAgain = () => {
    const button = document.querySelector("#look-again");
    const tab = document.querySelector("#tab-train");
    if (document.visibilityState !== "visible" || !button || !tab || !tab.offsetParent) return;
    if (performance.now() - lookedAt < 1000) return;
    lookedAt = performance.now();
    button.click();
  };
  document.addEventListener("visibilitychange", lookAgain);
  window.addEventListener("focus", lookAgain);

  // Where the runs lie below the form, a run that was just started would be out of sight.
  window.textgenShowRun = () => {
    const head = document.querySelector("#run-head");
    const form = document.querySelector("#train-start");
    if (!head || !form || !head.textContent.trim()) return;
    if (head.getBoundingClientRect().left < form.getBoundingClientRect().right) head.scrollIntoView({ block: "center" });
  };

  const press = (id) => {
    const button = document.querySelector(id);
    if (button && !button.disabled) button.click();
  };
  document.addEventListener("keydown", (event) => {
    const go = document.querySelector("#generate");
    if (!go || !go.offsetParent) return;  // another tab is shown
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      // A text box hands its value on when it is left; without this the last keystrokes would be missing.
      const active = document.activeElement;
      const box = document.querySelector("#document textarea");
      if (active === box) {
        box.dispatchEvent(new Event("input", { bubbles: true }));
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
