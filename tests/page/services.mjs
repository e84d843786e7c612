// Services that fail on purpose.
import net from "node:net";

/** A port in front of a service, by which it can be cut off. */
export async function inFrontOf(url) {
  const { hostname, port: of } = new URL(url);
  const sockets = new Set();
  const server = net.createServer((client) => {
    const service = net.connect(Number(of), hostname);
    for (const [one, other] of [[client, service], [service, client]]) {
      sockets.add(one);
      one.pipe(other);
      one.on("error", () => {}).on("close", () => {
        sockets.delete(one);
        other.destroy();
      });
    }
  });
  const listen = (port) => new Promise((done) => server.listen(port, "127.0.0.1", done));
  await listen(0);
  const { port } = server.address();
  const front = new URL(url);
  front.host = `127.0.0.1:${port}`;
  const cut = async () => {
    const closed = new Promise((done) => server.close(done));
    for (const socket of sockets) socket.destroy();
    await closed;
  };
  return { url: front.href, cut, restore: () => listen(port) };
}

/**
 * A mail server that does as the first letters of an address say: `refused…` is refused with this reply, `cut…` is taken and not
 * answered any more; everything else is accepted.
 */
export async function mailServer(refusal) {
  const accepts = new Set();
  const server = net.createServer((socket) => {
    const say = (line) => socket.write(`${line}\r\n`);
    let rest = "";
    let to = "";
    let isData = false;
    socket.on("error", () => {});
    socket.on("data", (bytes) => {
      rest += bytes;
      for (;;) {
        if (isData) {
          const end = rest.indexOf("\r\n.\r\n");
          if (end < 0) return;
          rest = rest.slice(end + 5);
          isData = false;
          if (to.startsWith("cut") && !accepts.has(to)) return socket.destroy();
          say("250 2.0.0 taken");
          continue;
        }
        const end = rest.indexOf("\r\n");
        if (end < 0) return;
        const line = rest.slice(0, end);
        rest = rest.slice(end + 2);
        const [verb] = line.toUpperCase().split(/[ :]/, 1);
        if (verb === "EHLO" || verb === "HELO") say("250 mail.test");
        else if (verb === "RCPT") {
          to = /<(.*)>/.exec(line)[1];
          say(to.startsWith("refused") && !accepts.has(to) ? refusal : "250 2.1.5 ok");
        } else if (verb === "DATA") {
          isData = true;
          say("354 go on");
        } else if (verb === "QUIT") {
          say("221 bye");
          socket.end();
        } else say("250 2.0.0 ok");
      }
    });
    say("220 mail.test");
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  return { port: server.address().port, accept: (address) => accepts.add(address) };
}
