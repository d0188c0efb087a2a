// What dstack-auth is compared with: a webhook that reads and parses the allow-list for every request,
// and logs each decision. node auth_node.js PORT FILE
'use strict';
const fs = require('fs');
const http = require('http');

const [port, file] = process.argv.slice(2);

function hex(text) {
  const trimmed = String(text || '').trim().toLowerCase();
  return trimmed.startsWith('0x') ? trimmed.slice(2) : trimmed;
}

function decide(boot) {
  const list = JSON.parse(fs.readFileSync(file, 'utf8'));
  const answer = (isAllowed, reason) => ({ isAllowed, gatewayAppId: list.gatewayAppId || '', reason });
  const images = (list.osImages || []).map(hex);
  if (!images.includes(hex(boot.osImageHash))) return answer(false, 'os image not allowed');
  const id = Object.keys(list.apps || {}).find((key) => hex(key) === hex(boot.appId));
  if (id === undefined) return answer(false, 'app not registered');
  const app = list.apps[id];
  if (!(app.composeHashes || []).map(hex).includes(hex(boot.composeHash))) {
    return answer(false, 'compose hash not allowed');
  }
  const devices = (app.devices || []).map(hex);
  if (!app.allowAnyDevice && devices.length > 0 && !devices.includes(hex(boot.deviceId))) {
    return answer(false, 'device not allowed');
  }
  return answer(true, 'ok');
}

http
  .createServer((request, response) => {
    const parts = [];
    request.on('data', (part) => parts.push(part));
    request.on('end', () => {
      let status = 200;
      let body;
      try {
        const boot = JSON.parse(Buffer.concat(parts).toString('utf8'));
        const answer = decide(boot);
        console.log(`${request.url} app=${boot.appId} allowed=${answer.isAllowed} reason=${answer.reason}`);
        body = JSON.stringify(answer);
      } catch (error) {
        status = 400;
        body = JSON.stringify({ error: String(error) });
      }
      response.writeHead(status, { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(body) });
      response.end(body);
    });
  })
  .listen(Number(port), '127.0.0.1');
