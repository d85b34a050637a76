// Paints on the canvas over the photo. What is painted goes to the server as `value.mask`, a PNG data URL.
const canvas = element.querySelector("canvas");
const width = element.querySelector("input");
const context = canvas.getContext("2d");
let last = null;
let shown = "";

function point(event) {
  const box = canvas.getBoundingClientRect();
  return [
    ((event.clientX - box.left) * canvas.width) / box.width,
    ((event.clientY - box.top) * canvas.height) / box.height,
  ];
}

function paint(event) {
  const next = point(event);
  context.strokeStyle = "rgb(0 110 180)";
  context.lineCap = "round";
  context.lineWidth = Number(width.value);
  context.beginPath();
  context.moveTo(...last);
  context.lineTo(...next);
  context.stroke();
  last = next;
}

function send(mask) {
  shown = mask;
  props.value = { ...props.value, mask };
  trigger("input");
}

// Another photo brings an empty mask; a page part that is opened again brings the one it had.
function show() {
  if (props.value.mask === shown) return;
  shown = props.value.mask;
  context.clearRect(0, 0, canvas.width, canvas.height);
  if (!shown) return;
  const picture = new Image();
  picture.onload = () => context.drawImage(picture, 0, 0);
  picture.src = shown;
}

canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  last = point(event);
  paint(event);
});
canvas.addEventListener("pointermove", (event) => last && paint(event));
canvas.addEventListener("pointerup", () => {
  last = null;
  send(canvas.toDataURL());
});
canvas.addEventListener("pointercancel", () => (last = null));
element.querySelector("button").addEventListener("click", () => {
  context.clearRect(0, 0, canvas.width, canvas.height);
  send("");
});
watch("value", show);
show();
