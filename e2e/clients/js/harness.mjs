// Helpers of all tests: users, faults of the simulated node, and checks.
import assert from 'node:assert/strict'

export const base = process.env.BASE_URL + '/api/v1'
export const limited = process.env.LIMITED_URL + '/api/v1' // one open an hour
export const chatModel = 'llama-3.3-70b'
export const embeddingModel = 'text-embedding-bge-m3'
export const speechModel = 'tts-kokoro'
export const transcriptionModel = 'whisper-v3-large-turbo'

let users = 0
// key returns the key of a new user, so that tests share no sessions and no budget.
export const key = () => `sk-js-${process.pid}-${++users}`

async function callNode(method, path, body) {
  const response = await fetch(process.env.NODE_URL + path, { method, body: body && JSON.stringify(body) })
  assert.ok(response.ok, `${method} ${path}: ${response.status} ${await response.text()}`)
}

// withFault runs a test while the node has a fault: a name of proxyroutertest.Presets,
// or a whole fault.
export async function withFault(fault, test) {
  await callNode('POST', '/_sim/faults', typeof fault === 'string' ? { name: fault } : fault)
  try {
    return await test()
  } finally {
    await callNode('DELETE', '/_sim/faults')
  }
}

// failureOf returns the error of a rejected promise, and fails if it is fulfilled.
export async function failureOf(promise) {
  let value
  try {
    value = await promise
  } catch (error) {
    return error
  }
  assert.fail(`no error, but ${JSON.stringify(value)}`)
}

// brokenStreams are the faults that truncate a stream.
export const brokenStreams = ['stream-bare-json', 'stream-ends', 'stream-half-line', 'chat-cut']

// linger keeps a stream open long after [DONE], longer than any test may take.
export const linger = { name: 'stream-lingers', delay: 600e9 }

// limitedWithLink is a model's own error whose message has a link.
export const link = 'https://platform.openai.com/account/rate-limits'
export const limitedWithLink = {
  op: 'chat', status: 429,
  body: JSON.stringify({
    providerModelError: { error: { message: `Rate limit reached. Visit ${link} to learn more.`, type: 'requests', param: null, code: 'rate_limit_exceeded' } },
    statusCode: 429,
  }),
}
