// Fetches the words of the user's language from the pack's own folder.

import { speak } from "./words.js";

const files = new Map(); // every feature of the pack asks for the same

function read(language) {
  if (!files.has(language)) files.set(language, fetched(language));
  return files.get(language);
}

const fetched = (language) =>
  fetch(new URL(`../words/${language}.json`, import.meta.url))
    .then((answer) => (answer.ok ? answer.json() : null))
    .catch(() => null);

/** Resolves once `t` speaks `language`, or English where the pack has no such words. */
export async function learn(language = "en") {
  const english = (await read("en")) ?? {};
  const own = language === "en" ? english : ((await read(language)) ?? (await read(language.split("-")[0])));
  speak(own ? language : "en", own ?? english, english);
}

/** The language that the user chose in ComfyUI, as far as this frontend tells. */
export function locale(app) {
  try {
    return app.extensionManager?.setting?.get("Comfy.Locale") ?? app.ui?.settings?.getSettingValue("Comfy.Locale") ?? "en";
  } catch {
    return "en";
  }
}
