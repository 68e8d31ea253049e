// Vercel's AI SDK.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import { APICallError, embedMany, generateText, stepCountIs, streamText, tool } from 'ai'
import { z } from 'zod'
import { base, limited, key, chatModel, embeddingModel, withFault, failureOf, brokenStreams, linger } from './harness.mjs'

const provider = (baseURL = base) => createOpenAICompatible({ name: 'morpheus', baseURL, apiKey: key(), includeUsage: true })
const ask = (prompt = 'Hello there', options = {}) => ({ model: provider()(chatModel), prompt, maxRetries: 0, ...options })

// read returns a stream's text and the errors that are its parts.
async function read(result) {
  let text = ''
  const errors = []
  let finish
  for await (const part of result.fullStream) {
    if (part.type === 'text-delta') text += part.text
    if (part.type === 'error') errors.push(part.error)
    if (part.type === 'finish') finish = part.finishReason
  }
  return { text, errors, finish }
}

const quiet = { onError() {} } // else it prints

test('text is generated and streamed', async () => {
  const { text, usage } = await generateText(ask())
  assert.match(text, /Hello there/)
  assert.ok(usage.totalTokens > 0)
  const streamed = await read(streamText(ask()))
  assert.match(streamed.text, /Hello there/)
  assert.deepEqual(streamed.errors, [])
  assert.equal(streamed.finish, 'stop')
})

test('tools are called and answered', async () => {
  const weather = tool({ inputSchema: z.object({ city: z.string() }), execute: async () => 'sunny' })
  const { steps } = await generateText(ask('What is the weather?', { tools: { weather }, stopWhen: stepCountIs(2) }))
  assert.equal(steps[0].toolCalls[0].toolName, 'weather')
  assert.match(steps[1].text, /sunny/)
})

test('embeddings', async () => {
  const { embeddings } = await embedMany({ model: provider().textEmbeddingModel(embeddingModel), values: ['one', 'two'], maxRetries: 0 })
  assert.equal(embeddings.length, 2)
  assert.ok(embeddings[0].length > 0)
})

test('an abort ends a stream, and the user can go on', async () => {
  const model = provider()(chatModel)
  const controller = new AbortController()
  const result = streamText({ ...ask('word '.repeat(20)), model, abortSignal: controller.signal, ...quiet })
  for await (const part of result.fullStream) if (part.type === 'text-delta') controller.abort()
  assert.match((await generateText({ ...ask(), model })).text, /Hello there/)
})

test('a stream ends though the node does not close', async () => {
  await withFault(linger, async () => {
    const { text, errors, finish } = await read(streamText(ask()))
    assert.deepEqual(errors, [])
    assert.equal(finish, 'stop')
    assert.match(text, /Hello there/)
  })
})

for (const fault of brokenStreams) {
  test(`a broken stream is an error: ${fault}`, async () => {
    await withFault(fault, async () => {
      const { text, errors } = await read(streamText(ask('Hello there', quiet)))
      assert.ok(errors.length > 0, `no error after ${JSON.stringify(text)}`)
      assert.ok(text.length > 0, 'what came before is lost')
    })
  })
}

test('errors have their status and message', async () => {
  for (const [fault, status, message] of [
    ['empty-answer', 502, /./], ['chat-drop', 502, /./], ['model-context-length', 400, /^This model's maximum context length/], ['model-rate-limit', 429, /^Rate limit reached/],
  ]) {
    await withFault(fault, async () => {
      const error = await failureOf(generateText(ask()))
      assert.ok(APICallError.isInstance(error), `${fault}: ${error}`)
      assert.equal(error.statusCode, status, fault)
      assert.match(error.message, message)
    })
  }
  let error = await failureOf(generateText({ ...ask(), model: provider()('llama-3.3-70c') }))
  assert.match(error.message, /llama-3\.3-70b/)
  error = await failureOf(generateText({ ...ask(), model: provider()(embeddingModel) }))
  assert.equal(error.data.error.code, 'model_type_mismatch')
})

test('a budget that is used up says when to come back', async () => {
  const models = provider(limited)
  await generateText({ ...ask(), model: models(chatModel) })
  const error = await failureOf(generateText({ ...ask(), model: models('gpt-oss-120b') }))
  assert.equal(error.statusCode, 429)
  assert.equal(error.data.error.code, 'session_budget_exceeded')
  assert.ok(Number(error.responseHeaders['retry-after']) > 60)
})
