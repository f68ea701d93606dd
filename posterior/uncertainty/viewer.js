// One image of a field: a click, or the arrow keys, probe a pixel.
function render({ model, el }) {
  const box = document.createElement("div");
  box.className = "posterior-picture";
  box.tabIndex = 0;
  box.setAttribute("role", "application");
  box.setAttribute("aria-label", "field; click or use the arrow keys to probe a pixel");
  const image = document.createElement("img");
  image.draggable = false;
  const mark = document.createElement("div");
  mark.className = "posterior-mark";
  box.append(image, mark);
  el.append(box);

  const place = () => {
    const [rows, columns] = model.get("shape");
    const [row, column] = model.get("probe");
    mark.style.left = `${(100 * (column + 0.5)) / columns}%`;
    mark.style.top = `${(100 * (row + 0.5)) / rows}%`;
  };
  const draw = () => {
    image.src = model.get("source");
    image.alt = model.get("caption");
    box.style.width = `${model.get("size")[0]}px`;
    box.style.height = `${model.get("size")[1]}px`;
  };
  const probe = (row, column) => {
    const [rows, columns] = model.get("shape");
    const inside = (i, n) => Math.min(n - 1, Math.max(0, i));
    model.set("probe", [inside(row, rows), inside(column, columns)]);
    model.save_changes();
  };
  const click = (event) => {
    const [rows, columns] = model.get("shape");
    const r = box.getBoundingClientRect();
    probe(Math.floor(((event.clientY - r.top) / r.height) * rows), Math.floor(((event.clientX - r.left) / r.width) * columns));
  };
  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  const key = (event) => {
    const step = steps[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const [row, column] = model.get("probe");
    probe(row + step[0], column + step[1]);
  };
  box.addEventListener("click", click);
  box.addEventListener("keydown", key);
  model.on("change:source change:size change:caption", draw);
  model.on("change:probe change:shape", place);
  draw();
  place();
}
export default { render };
