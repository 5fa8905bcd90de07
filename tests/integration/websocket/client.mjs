// A conversation with an echo: by `ws` from npm, by the WebSocket that newer versions of Node bring along, or by a browser's.
//     node client.mjs ws|builtin URL        prints OK, or says what was not
//     <script type="module">                the same in a page; ?stop only waits for the server's end, and tells the code
// Run where `ws` is installed. Each step waits for the one before; the test that runs this bounds the time.

const inBrowser = globalThis.document !== undefined;
const [kind, url] = inBrowser ? ["browser", location.origin.replace("http", "ws")] : process.argv.slice(2);
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

async function converse() {
  const socket = open("/echo");
  await socket.opened;
  if (kind !== "builtin") expect(socket.extensions.split(";")[0], "permessage-deflate", "extension");
  for (const text of ["hi", "", "käse 🧀", "x".repeat(200_000)]) {
    socket.send(text);
    expect(await socket.receive(), text, "text");
  }
  for (const size of [0, 1, 125, 126, 65_535, 65_536, 300_000]) {
    const data = new Uint8Array(size).map((_, index) => index % 251);
    socket.send(data);
    const back = new Uint8Array(await socket.receive());
    expect(back.length === size && back.every((octet, index) => octet === data[index]), true, `${size} bytes`);
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
  return "OK";
}

async function waitForTheEnd(key) {
  const socket = open("/echo");
  await socket.opened;
  await fetch(`/tell?${key}`);
  const { code, wasClean } = await socket.closed;
  return `${code} ${wasClean}`;
}

const [what, key] = inBrowser ? location.search.slice(1).split("&") : ["converse"];
let result;
try {
  result = await (what === "stop" ? waitForTheEnd(key) : converse());
} catch (error) {
  result = `${error}`;
}
if (inBrowser) {
  document.getElementById("result").textContent = result;
  // The page is not loaded, and not shown to who waits for that, as long as this picture is missing.
  document.getElementById("hold").src = "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA=";
} else {
  console.log(result);
}
