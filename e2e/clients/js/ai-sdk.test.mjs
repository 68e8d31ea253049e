// Vercel's AI SDK. It cannot list models: its users name them. Only its provider for
// OpenAI supports audio, the provider for compatible gateways does not.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createOpenAI } from '@ai-sdk/openai'
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import {
  APICallError, createProviderRegistry, embedMany, experimental_generateSpeech as generateSpeech, experimental_transcribe as transcribe,
  generateText, Output, stepCountIs, streamText, tool,
} from 'ai'
import { z } from 'zod'
import {
  base, limited, key, chatModel, embeddingModel, speechModel, transcriptionModel, withFault, failureOf, brokenStreams, linger, link, limitedWithLink,
} from './harness.mjs'

const provider = (baseURL = base, options = {}) => createOpenAICompatible({ name: 'morpheus', baseURL, apiKey: key(), includeUsage: true, ...options })
const ask = (prompt = 'Hello there', options = {}) => ({ model: provider()(chatModel), prompt, maxRetries: 0, ...options })

// read returns a stream's text, its errors, which are parts of it, and its reason to
// finish.
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

const quiet = { onError() {} } // without it, the SDK prints errors

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

test('embeddings are returned', async () => {
  const { embeddings } = await embedMany({ model: provider().textEmbeddingModel(embeddingModel), values: ['one', 'two'], maxRetries: 0 })
  assert.equal(embeddings.length, 2)
  assert.ok(embeddings[0].length > 0)
})

test('JSON mode and structured output work, streamed or not', async () => {
  const json = await generateText(ask('Hello there', { output: Output.json() }))
  assert.deepEqual(json.output, { you_said: 'Hello there' })
  const strict = provider(base, { supportsStructuredOutputs: true })
  const city = { ...ask(), model: strict(chatModel), output: Output.object({ schema: z.object({ city: z.string() }) }) }
  assert.equal(typeof (await generateText(city)).output.city, 'string')
  assert.equal(typeof (await streamText({ ...city, ...quiet }).output).city, 'string')
})

test('models are named in any spelling, and through a registry', async () => {
  const registry = createProviderRegistry({ morpheus: provider() })
  for (const [name, model] of [['meta-llama/Llama-3.3-70B-Instruct', chatModel], ['llama-3.3-70b:web', 'llama-3.3-70b:web']]) {
    const { text, response } = await generateText({ ...ask(), model: registry.languageModel(`morpheus:${name}`) })
    assert.match(text, /Hello there/)
    assert.equal(response.headers['x-automation-model'], model)
  }
})

test('speech and transcription work', async () => {
  const openai = createOpenAI({ baseURL: base, apiKey: key() })
  const { audio } = await generateSpeech({ model: openai.speech(speechModel), text: 'Hello', voice: 'alloy', maxRetries: 0 })
  assert.ok(audio.uint8Array.length > 0)
  const { text } = await transcribe({ model: openai.transcription(transcriptionModel), audio: audio.uint8Array, maxRetries: 0 })
  assert.match(text, new RegExp(`${audio.uint8Array.length} bytes`))
})

test('an abort ends a stream, and the next chat works', async () => {
  const model = provider()(chatModel)
  const controller = new AbortController()
  const result = streamText({ ...ask('word '.repeat(20)), model, abortSignal: controller.signal, ...quiet })
  for await (const part of result.fullStream) if (part.type === 'text-delta') controller.abort()
  assert.match((await generateText({ ...ask(), model })).text, /Hello there/)
})

test('a stream ends although the node keeps the connection open', async () => {
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
      assert.ok(text.length > 0, 'the text before the error is lost')
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

test("a link in a model's own error reaches the user", async () => {
  await withFault(limitedWithLink, async () => {
    const error = await failureOf(generateText(ask()))
    assert.equal(error.statusCode, 429)
    assert.equal(error.message, `Rate limit reached. Visit ${link} to learn more.`)
  })
})

test('a route that the node lacks is not found, and chats still work', async () => {
  const openai = createOpenAI({ baseURL: base, apiKey: key() })
  const error = await failureOf(generateText({ ...ask(), model: openai(chatModel) })) // the provider's default route is /responses
  assert.ok(APICallError.isInstance(error), String(error))
  assert.equal(error.statusCode, 404)
  assert.equal(error.data.error.code, 'unknown_url')
  assert.match(error.message, /does not have this route/)
  assert.match((await generateText({ ...ask(), model: openai.chat(chatModel) })).text, /Hello there/)
})

test('the error of an exhausted budget has Retry-After', async () => {
  const models = provider(limited)
  await generateText({ ...ask(), model: models(chatModel) })
  const error = await failureOf(generateText({ ...ask(), model: models('gpt-oss-120b') }))
  assert.equal(error.statusCode, 429)
  assert.equal(error.data.error.code, 'session_budget_exceeded')
  assert.ok(Number(error.responseHeaders['retry-after']) > 60)
})
