// Speaks English in a test, with the words that users read.

import { readFileSync } from "node:fs";

import { speak } from "../../web/lib/words.js";

export const words = JSON.parse(readFileSync(new URL("../../web/words/en.json", import.meta.url)));
speak("en", words);

/** The run report that the Python tests hold against RunReport.to_dict(). */
export const golden = () => JSON.parse(readFileSync(new URL("../fixtures/run_report.json", import.meta.url)));
