// Clients that never finish: auth_slow.js PORT COUNT SECONDS. Each drips a request byte by byte and comes back when it
// is thrown out.
const net = require('net');
const [port, count, seconds] = process.argv.slice(2).map(Number);
const text = 'POST /bootAuth/app HTTP/1.1\r\nHost: slow\r\nX: ' + 'x'.repeat(4000);
function drip() {
  let at = 0;
  const socket = net.connect(port, '127.0.0.1');
  const timer = setInterval(() => socket.write(text[at++ % text.length]), 500);
  socket.on('error', () => {});
  socket.on('close', () => {
    clearInterval(timer);
    setTimeout(drip, 100);
  });
}
for (let i = 0; i < count; ++i) {
  drip();
}
setTimeout(() => process.exit(0), seconds * 1000);
