// What somebody has typed, and where they were, outlives a reload: Gradio reloads the page by itself when its server
// comes back. It is kept for this one tab of the browser, and gone with it.
(() => {
  "use strict";
  const KEPT = "textgen_kept";
  const FIELDS = ["#document textarea", "#train-paste textarea", "#train-title input", "#train-prompts textarea"];

  const read = () => {
    try {
      return JSON.parse(sessionStorage.getItem(KEPT)) || {};
    } catch {
      return {};
    }
  };
  const save = () => {
    const kept = read().fields || {};
    for (const field of FIELDS) {
      const box = document.querySelector(field);
      if (box) kept[field] = box.value;
    }
    const tab = document.querySelector('#tabs [role="tab"][aria-selected="true"]');
    try {
      sessionStorage.setItem(KEPT, JSON.stringify({ fields: kept, tab: tab ? tab.id : "" }));
    } catch {
      // More than a browser keeps, or it keeps nothing.
    }
  };
  window.addEventListener("pagehide", save);

  const put = (box, text) => {
    if (box.value === text) return;
    box.value = text;
    box.dispatchEvent(new Event("input", { bubbles: true }));
  };
  // The fields of a tab come into being when it is first shown.
  const fill = (fields, left) => {
    const missing = {};
    for (const [field, text] of Object.entries(fields)) {
      const box = document.querySelector(field);
      if (box) put(box, text);
      else missing[field] = text;
    }
    if (left && Object.keys(missing).length) setTimeout(() => fill(missing, left - 1), 100);
  };
  window.textgenRestore = () => {
    const [entry] = performance.getEntriesByType("navigation");
    if (!entry || entry.type !== "reload") return;
    const kept = read();
    const fields = Object.entries(kept.fields || {}).filter(([field, text]) => FIELDS.includes(field) && text);
    const tab = kept.tab && document.getElementById(kept.tab);
    if (tab && tab.getAttribute("aria-selected") !== "true") tab.click();
    fill(Object.fromEntries(fields), 50);
  };
})();
