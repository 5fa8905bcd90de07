// A conversation with an echo, by a client of Node's: `ws` from npm, or the WebSocket that newer versions bring along.
//     node client.mjs ws|builtin URL        prints OK, or says what was not
// Run where `ws` is installed. Each step waits for the one before; the test that runs this bounds the time.

const [kind, url] = process.argv.slice(2);
const { default: WebSocket } = kind === "ws" ? await import("ws") : { default: globalThis.WebSocket };

function open(path, ...how) {
  const socket = new WebSocket(url + path, ...how);
  socket.binaryType = "arraybuffer";
  const inbox = [];
  const waiting = [];
  socket.addEventListener("message", ({ data }) => (waiting.length ? waiting.shift()(data) : inbox.push(data)));
  socket.receive = () => (inbox.length ? Promise.resolve(inbox.shift()) : new Promise((resolve) => waiting.push(resolve)));
  socket.closed = new Promise((resolve) => socket.addEventListener("close", resolve));
  socket.opened = new Promise((resolve, reject) => {
    socket.addEventListener("open", resolve);
    socket.addEventListener("error", () => reject(new Error("not opened")));
  });
  socket.opened.catch(() => {});
  return socket;
}

function expect(found, wanted, what) {
  if (found !== wanted) throw new Error(`${what}: ${String(found).slice(0, 200)} instead of ${String(wanted).slice(0, 200)}`);
}

const socket = open("/echo");
await socket.opened;
for (const text of ["hi", "", "käse 🧀", "x".repeat(200_000)]) {
  socket.send(text);
  expect(await socket.receive(), text, "text");
}
for (const size of [0, 1, 125, 126, 65_535, 65_536, 300_000]) {
  const data = new Uint8Array(size).map((_, index) => index % 251);
  socket.send(data);
  const back = new Uint8Array(await socket.receive());
  expect(Buffer.compare(Buffer.from(back), Buffer.from(data)), 0, `${size} bytes`);
}
for (let number = 0; number < 1000; number++) socket.send(`number ${number}`);
for (let number = 0; number < 1000; number++) expect(await socket.receive(), `number ${number}`, "order");
if (kind === "ws") {
  const pong = new Promise((resolve) => socket.on("pong", resolve));
  socket.ping("there?");
  expect(String(await pong), "there?", "pong");
}
socket.close(4001, "enough");
expect((await socket.closed).code, 4001, "echoed code");

const chat = open("/pick", ["chat", "superchat"]);
await chat.opened;
expect(chat.protocol, "superchat", "subprotocol");
expect((await chat.closed).code, 1000, "code");

const told = open("/close_with?node&4000%20bye");
const end = await told.closed;
expect(end.code, 4000, "code");
expect(end.reason, "bye", "reason");
expect(end.wasClean, true, "clean");

const refused = open("/refuse?node");
expect(await refused.opened.then(() => "opened", () => "refused"), "refused", "a refusal");
console.log("OK");
