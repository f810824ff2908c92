// Shows the pack's templates in the order of their numbers: the server lists them as the disk does.

import { api } from "../../scripts/api.js";

const pack = decodeURIComponent(new URL(import.meta.url).pathname.split("/extensions/")[1]?.split("/")[0] ?? "");
const list = api.getWorkflowTemplates;

if (list)
  api.getWorkflowTemplates = async function (...args) {
    const all = await list.apply(this, args);
    return Array.isArray(all?.[pack]) ? { ...all, [pack]: [...all[pack]].sort() } : all;
  };
