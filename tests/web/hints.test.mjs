import assert from "node:assert/strict";
import { test } from "node:test";
import { EDGE, blamed, hints } from "../../web/lib/hints.js";

/** loader - Apply - shift - sampler - decode, with a viewer; `change` edits the nodes by id. */
function graph(change = () => {}) {
  const model = (node) => ({ node, type: "MODEL" });
  const wire = (node, type) => ({ node, type });
  const nodes = {
    1: { type: "UNETLoader", inputs: {}, outputs: { MODEL: [model(2)] } },
    2: { type: "SenCacheApply", inputs: { model: model(1) }, outputs: { model: [model(3)], stats: [wire(5, "SENCACHE_STATS")] } },
    3: { type: "ModelSamplingSD3", inputs: { model: model(2) }, outputs: { MODEL: [model(4)] } },
    4: { type: "KSampler", inputs: { model: model(3) }, outputs: { LATENT: [wire(5, "LATENT")] } },
    5: { type: "SenCacheStatsViewer", inputs: { latent: wire(4, "LATENT"), stats: wire(2, "SENCACHE_STATS"), stats_2: null }, outputs: {} },
  };
  for (const [id, node] of Object.entries(nodes)) Object.assign(node, { id: Number(id), active: true, title: node.type });
  change(nodes);
  return Object.values(nodes).filter(Boolean);
}
const keys = (change) => hints(graph(change)).map(({ node, key }) => [node, key]);

test("a graph in order gets no hint", () => {
  assert.deepEqual(keys(), []);
});

test("stats or latent unconnected", () => {
  assert.deepEqual(keys((n) => { n[5].inputs.stats = null; }), [[5, "hint.no_stats"]]);
  assert.deepEqual(keys((n) => { n[5].inputs.latent = null; }), [[5, "hint.no_latent"]]);
});

test("the model leads nowhere, or only to who looks at it", () => {
  const cut = (n) => { n[2].outputs.model = []; n[3].inputs.model = null; };
  assert.deepEqual(keys(cut), [[2, "hint.unused"], [5, "hint.before_sampler"]]);
  const looked = (n) => { cut(n); n[2].outputs.model = [{ node: 6, type: "MODEL" }]; n[6] = { id: 6, type: "SenCachePlan", active: true, inputs: {}, outputs: {} }; };
  assert.deepEqual(keys(looked)[0], [2, "hint.unused"]);
  assert.deepEqual(keys((n) => { n[2].outputs.model = [EDGE]; n[3].inputs.model = null; }), []);
});

test("another cache on the model, before or after, unless it is off", () => {
  for (const [id, type] of [[1, "EasyCache"], [3, "TeaCache"], [3, "ApplyFBCacheOnModel"], [3, "MagCache"], [3, "CacheDiT_Model_Optimizer"]])
    assert.deepEqual(keys((n) => { n[id].type = n[id].title = type; }), [[2, "hint.other_cache"]], type);
  assert.deepEqual(keys((n) => { Object.assign(n[3], { type: "EasyCache", active: false }); }), []);
  for (const type of ["LoraLoaderModelOnly", "TorchCompileModel", "ContextWindowsManual"])
    assert.deepEqual(keys((n) => { n[3].type = type; }), [], type);
  assert.equal(hints(graph((n) => { n[3].type = "EasyCache"; n[3].title = "My cache"; }))[0].values.node, "My cache");
});

test("two Apply nodes in a row: the first does nothing", () => {
  assert.deepEqual(keys((n) => { n[3].type = "SenCacheApply"; }), [[2, "hint.replaced"]]);
  assert.deepEqual(keys((n) => { Object.assign(n[3], { type: "SenCacheApply", active: false }); }), []);
});

test("the viewer of a bypassed Apply, and one before the sampler", () => {
  assert.deepEqual(keys((n) => { n[2].active = false; }), [[5, "hint.bypassed"]]);
  const before = (n) => { n[5].inputs.latent = { node: 7, type: "LATENT" }; n[7] = { id: 7, type: "EmptyLatent", active: true, inputs: {}, outputs: {} }; };
  assert.deepEqual(keys(before), [[5, "hint.before_sampler"]]);
  assert.deepEqual(keys((n) => { n[5].inputs.latent = EDGE; }), []);
});

test("an error of ours is shown on our node, one of others nowhere", () => {
  const prompt = {
    2: { class_type: "SenCacheApply", inputs: { model: ["1", 0] } },
    1: { class_type: "UNETLoader", inputs: {} },
    4: { class_type: "KSampler", inputs: { model: ["2", 0], seed: 3 } },
  };
  const error = { node_id: "4", node_type: "KSampler", exception_type: "sencache_core.hosts.comfy_run.UnsupportedModel", traceback: [] };
  assert.deepEqual(blamed(error, prompt), ["2"]);
  assert.deepEqual(blamed({ ...error, exception_type: "torch.OutOfMemoryError", traceback: ["comfy/samplers.py"] }, prompt), []);
  assert.deepEqual(blamed({ node_id: "9", node_type: "SenCacheCalibrate", exception_type: "x" }, {}), ["9"]);
});
