#!/usr/bin/env node
// Writes while the leader dies, and checks that nothing acknowledged was lost.
// Run it as: syncraft dev -- examples/dev/leader_dies.mjs
import assert from "node:assert";
import { setTimeout as sleep } from "node:timers/promises";

const members = process.env.SYNCRAFT_HTTP_ALL.split(" ");
const dev = process.env.SYNCRAFT_DEV;

// Asks one member after the other until one does it.
async function ask(method, key, body) {
  const deadline = Date.now() + 60_000;
  while (Date.now() < deadline) {
    for (const member of members) {
      // A dead member refuses the connection.
      const answer = await fetch(`${member}/v1/kv/${key}`, { method, body }).catch(() => null);
      if (answer?.ok) return await answer.text();
      assert(!answer || [503, 504].includes(answer.status), "told to try again");
    }
    await sleep(100);
  }
  throw new Error("no member answers");
}

for (let i = 0; i < 40; i++) {
  await ask("PUT", `item-${i}`, `value ${i}`);
  if (i === 20) {
    const killed = await fetch(`${dev}/v1/dev/kill?member=leader`, { method: "POST" });
    console.log(await killed.text());
  }
}
for (let i = 0; i < 40; i++) {
  assert.equal(await ask("GET", `item-${i}`), `value ${i}`, `item-${i} is lost`);
}
console.log("40 writes were acknowledged, and none is lost");
