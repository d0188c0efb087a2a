// How soon a change of a large allow-list is live: replaces the file by rename and asks at once, over a kept
// connection. Prints the milliseconds from the rename to the answer that knows the change, one a line.
// node auth_change.js PORT FILE BOOTINFO ROUNDS
'use strict';
const fs = require('fs');
const http = require('http');

const [port, file, bootFile, rounds] = process.argv.slice(2);
const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });

function ask(body) {
  return new Promise((resolve, reject) => {
    const request = http.request(
      { host: '127.0.0.1', port, path: '/bootAuth/app', method: 'POST', agent,
        headers: { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(body) } },
      (response) => {
        let text = '';
        response.on('data', (part) => (text += part));
        response.on('end', () => resolve(JSON.parse(text).isAllowed));
      });
    request.on('error', reject);
    request.end(body);
  });
}

(async () => {
  const list = JSON.parse(fs.readFileSync(file, 'utf8'));
  const body = fs.readFileSync(bootFile, 'utf8');
  const id = JSON.parse(body).appId;
  const entry = list.apps[id];
  if (!entry) throw new Error(`${file} has no app ${id}`);
  for (let i = 0; i < Number(rounds); ++i) {
    const allowed = i % 2 === 1;
    if (allowed) list.apps[id] = entry;
    else delete list.apps[id];
    fs.writeFileSync(file + '.new', JSON.stringify(list), { mode: 0o644 });
    // Longer than the time for which a file counts as just changed.
    await new Promise((done) => setTimeout(done, 100));
    const begin = process.hrtime.bigint();
    fs.renameSync(file + '.new', file);
    while ((await ask(body)) !== allowed) { /* until it is live */ }
    console.log(Number(process.hrtime.bigint() - begin) / 1e6);
  }
  agent.destroy();
})();
