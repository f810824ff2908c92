// What the user reads, by key, in the user's language: web/words/<language>.json, keys as in en.json.

let english = {};
let own = {};
let plurals = new Intl.PluralRules("en");
let lists = new Intl.ListFormat("en", { style: "narrow" });

/** Speak `language` (such as "zh-TW") with its `words`; where a key lacks, `fallback`'s English stands in. */
export function speak(language, words, fallback = words) {
  [own, english] = [words, fallback];
  const known = Intl.PluralRules.supportedLocalesOf(language)[0] ?? "en";
  plurals = new Intl.PluralRules(known);
  lists = new Intl.ListFormat(known, { style: "narrow" });
}

/** The text of `key` with `{name}` replaced by `values.name`; `count` chooses among key_one, key_few, key_other. */
export function t(key, values = {}) {
  return fill(find(key, values) ?? key, values);
}

/** A message of the core, {key, values, text}: in the user's language, else its own English text. */
export function told(message) {
  if (typeof message === "string") return message;
  const text = find(`message.${message.key}`, message.values ?? {});
  return text === undefined ? message.text : fill(text, message.values ?? {});
}

function find(key, values) {
  const forms = values.count === undefined ? [key] : [`${key}_${plurals.select(values.count)}`, `${key}_other`, key];
  return [own, english].flatMap((words) => forms.map((form) => words[form])).find((text) => text !== undefined);
}

const fill = (text, values) => text.replace(/\{(\w+)\}/g, (whole, name) => shown(values[name]) ?? whole);

/** A value of a message: a number or a name, another message, or a list of these. */
function shown(value) {
  if (Array.isArray(value)) return lists.format(value.map((one) => String(shown(one))));
  return value?.key ? told(value) : value;
}
