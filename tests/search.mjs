// Searches the documentation with the theme's own search: its worker, run here instead of in a browser.
// Reads {worker, index, queries} from standard input, and writes for each query the addresses that it finds, best first.

import { readFileSync } from "node:fs"
import { runInThisContext } from "node:vm"

const { worker, index, queries } = JSON.parse(readFileSync(0, "utf8"))

let ask
let answer
globalThis.self = globalThis
globalThis.addEventListener = (_, listener) => { ask = listener }
globalThis.postMessage = message => answer(message)
runInThisContext(readFileSync(worker, "utf8"))

const SETUP = 0
const QUERY = 2
const send = message => new Promise(resolve => { answer = resolve; ask({ data: message }) })

await send({ type: SETUP, data: { ...JSON.parse(readFileSync(index, "utf8")), options: {} } })
const found = []
for (const query of queries) {
  const { data } = await send({ type: QUERY, data: query })
  const sections = data.items.flat().filter(section => section.score > 0)
  found.push(sections.sort((one, other) => other.score - one.score).map(section => section.location))
}
console.log(JSON.stringify(found))
