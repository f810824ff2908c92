import assert from "node:assert/strict";
import test from "node:test";

import { speak, t, told } from "../../web/lib/words.js";

const ENGLISH = { steps_one: "{count} step", steps_other: "{count} steps", saved: "{time} saved", "message.late": "Late by {n}." };

test("a key is filled with its values, an unknown one shows itself", () => {
  speak("en", ENGLISH);
  assert.equal(t("saved", { time: "3 s" }), "3 s saved");
  assert.equal(t("nothing.of.it"), "nothing.of.it");
});

test("a count chooses the form of its language", () => {
  speak("en", ENGLISH);
  assert.equal(t("steps", { count: 1 }), "1 step");
  assert.equal(t("steps", { count: 0 }), "0 steps");
  speak("ru", { steps_one: "{count} шаг", steps_few: "{count} шага", steps_many: "{count} шагов", steps_other: "{count} шага" }, ENGLISH);
  assert.deepEqual([1, 3, 7].map((count) => t("steps", { count })), ["1 шаг", "3 шага", "7 шагов"]);
});

test("English stands in for what a language lacks, a message for itself", () => {
  speak("zh", { steps_other: "{count} 步" }, ENGLISH);
  assert.equal(t("steps", { count: 1 }), "1 步");
  assert.equal(t("saved", { time: "3 s" }), "3 s saved");
  assert.equal(told({ key: "late", values: { n: 2 }, text: "?" }), "Late by 2.");
  assert.equal(told({ key: "unknown", values: {}, text: "As the core said it." }), "As the core said it.");
  assert.equal(told("plain"), "plain");
});

test("a message may hold others, and lists of them", () => {
  const words = { ...ENGLISH, "message.why": "Skipped: {reasons}.", "message.warm_up": "warm-up", "message.last": "last steps" };
  const reasons = ["warm_up", "last"].map((key) => ({ key, values: {}, text: "?" }));
  speak("en", words);
  assert.equal(told({ key: "why", values: { reasons }, text: "?" }), "Skipped: warm-up, last steps.");
  speak("zh", { "message.why": "\u8df3\u8fc7\uff1a{reasons}\u3002", "message.warm_up": "\u9884\u70ed" }, words);
  assert.match(told({ key: "why", values: { reasons }, text: "?" }), /\u9884\u70ed.*last steps/);
});
