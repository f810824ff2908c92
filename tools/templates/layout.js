async (columns) => {
  const { app } = window.comfyAPI.app;
  const [GAP, PAD, TITLE, HEAD] = [40, 12, 30, 40];
  const LEAST = {
    MarkdownNote: 330,
    CLIPTextEncode: 100,
    SenCacheTinyPrompt: 110,
    SenCacheStatsViewer: 430,
    SenCacheCompare: 230,
    SaveVideo: 230,
    SaveAnimatedWEBP: 230,
    LoadImage: 260,
    LoadImageMask: 260,
    LoadVideo: 230,
  };
  app.graph.clear();
  app.graph.id = crypto.randomUUID(); // the frontend keeps widgets' values by graph and node
  const made = {};
  const place = {};

  function create(spec, width) {
    const node = window.LiteGraph.createNode(spec.type);
    if (!node) throw new Error(`no node ${spec.type}`);
    if (spec.id) node.id = spec.id;
    app.graph.add(node);
    if (spec.title) node.title = spec.title;
    for (const [name, value] of Object.entries(spec.widgets)) {
      if (name === "control") continue;
      const widget = node.widgets.find((one) => one.name === name || name === "");
      if (!widget) throw new Error(`${spec.type} has no widget ${name}`);
      widget.value = value;
      if (name === "family" || name === "policy") widget.callback?.(value);
    }
    for (const widget of node.widgets ?? [])
      if (widget.name === "control_after_generate") widget.value = spec.widgets.control ?? "fixed";
    if (spec.models.length) node.properties.models = spec.models;
    node.mode = spec.mode;
    const height = Math.max(node.computeSize()[1], LEAST[spec.type] ?? 0, spec.height);
    node.setSize([width, height]);
    if (spec.collapsed) node.collapse();
    made[spec.key] = node;
    return node;
  }

  let x = 0;
  columns.forEach((column, number) => {
    let y = column.top;
    for (const group of column.groups) {
      const start = y;
      y += group.title ? HEAD : 0;
      for (const row of group.rows) {
        const free = column.width - row.reduce((sum, cell) => sum + cell[0].width, 0) - 20 * (row.length - 1);
        const equal = row.filter((cell) => !cell[0].width).length;
        let [left, bottom] = [x, y];
        for (const cell of row) {
          const width = cell[0].width || free / equal;
          let below = y;
          for (const spec of cell) {
            const node = create(spec, width);
            // A collapsed node is narrow: at the right edge its wire leaves the column at once.
            node.pos = [spec.collapsed ? left + width - 215 : left, below + TITLE];
            place[spec.key] = number;
            // Nodes 2.0 draws a line more below some: the pack's name, the hidden inputs.
            const foot = /^SenCache|^UNETLoader$/.test(spec.type) ? 16 : 0;
            below += TITLE + (spec.collapsed ? -6 : node.size[1] + foot) + PAD;
          }
          left += width + 20;
          bottom = Math.max(bottom, below);
        }
        y = bottom;
      }
      if (group.title) {
        const frame = new window.LiteGraph.LGraphGroup(group.title);
        frame.pos = [x - PAD, start];
        frame.size = [column.width + 2 * PAD, y - start];
        frame.color = group.color;
        frame.font_size = 22;
        app.graph.add(frame);
      }
      y += PAD;
    }
    Object.assign(column, { x, bottom: y });
    x += column.width + GAP;
  });

  const lanes = { above: 0, below: 0 };
  const specs = columns.flatMap((column) => column.groups.flatMap((group) => group.rows.flat(2)));
  for (const spec of specs) {
    for (const [name, came, how] of spec.links) {
      const [key, output] = came.split(".");
      const slot = made[spec.key].inputs.findIndex((one) => one.name === name);
      const source = made[key];
      const out = source.outputs.findIndex((one) => one.name === output || one.type === output);
      if (slot < 0 || out < 0) throw new Error(`${spec.key}.${name} <- ${came}`);
      const link = source.connect(out, made[spec.key], slot);
      if (!how) continue;
      const [from, to] = [place[key], place[spec.key]];
      const target = made[spec.key].pos[0];
      const passed = target > columns[to].x ? to + 1 : to;
      const between = columns.slice(from + 1, passed).map((column) => column.bottom);
      const step = 10 + 18 * lanes[how]++;
      const y = how === "below" ? Math.max(...between, 0) + step : -step;
      const right = columns[from].x + columns[from].width + GAP / 2;
      const left = target - (passed > to ? 10 : GAP / 2);
      for (const end of [right, left]) app.graph.createReroute([end, y], link);
    }
  }
  const { output } = await app.graphToPrompt();
  const graph = app.graph.serialize();
  const width = x - GAP + 2 * PAD;
  if (width > 1700) throw new Error(`${width} px wide`);
  graph.extra = { ...graph.extra, ds: { scale: 0.8, offset: [100, 110] } };
  return [graph, output];
}
