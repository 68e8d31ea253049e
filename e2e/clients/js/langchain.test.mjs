// LangChain. For audio and the list of models it exports OpenAI's SDK, which
// openai.test.mjs tests.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { tool } from '@langchain/core/tools'
import { ChatOpenAI, OpenAIClient, OpenAIEmbeddings } from '@langchain/openai'
import OpenAI from 'openai'
import { z } from 'zod'
import { base, limited, key, chatModel, embeddingModel, withFault, failureOf, brokenStreams, linger, link, limitedWithLink } from './harness.mjs'

const chat = (options = {}, baseURL = base) =>
  new ChatOpenAI({ model: chatModel, apiKey: key(), maxRetries: 0, timeout: 60_000, configuration: { baseURL }, ...options })

async function read(model) {
  let text = ''
  for await (const chunk of await model.stream('Hello there')) text += chunk.content
  return text
}

test('chats and streams are answered', async () => {
  const model = chat()
  assert.match((await model.invoke('Hello there')).content, /Hello there/)
  assert.match(await read(model), /Hello there/)
})

test('tools and structured output work', async () => {
  const city = z.object({ city: z.string() })
  const weather = tool(async () => 'sunny', { name: 'weather', description: 'The weather', schema: city })
  const answer = await chat().bindTools([weather]).invoke('What is the weather?')
  assert.equal(answer.tool_calls[0].name, 'weather')
  const structured = await chat().withStructuredOutput(city, { method: 'jsonSchema' }).invoke('Hello there')
  assert.equal(typeof structured.city, 'string')
  const json = chat().withStructuredOutput(z.object({ you_said: z.string() }), { method: 'jsonMode' })
  assert.deepEqual(await json.invoke('Hello there'), { you_said: 'Hello there' })
})

test('the exported client for audio and models is the OpenAI SDK', () => assert.equal(OpenAIClient, OpenAI))

test('models are named in any spelling', async () => {
  for (const model of ['meta-llama/Llama-3.3-70B-Instruct', 'llama-3.3-70b:web']) {
    assert.match((await chat({ model }).invoke('Hello there')).content, /Hello there/)
  }
})

test('embeddings are returned', async () => {
  const embeddings = new OpenAIEmbeddings({ model: embeddingModel, apiKey: key(), maxRetries: 0, configuration: { baseURL: base } })
  assert.ok((await embeddings.embedQuery('one')).length > 0)
  assert.equal((await embeddings.embedDocuments(['one', 'two'])).length, 2)
})

test('an abort ends a chat, and the next chat works', async () => {
  const model = chat()
  const controller = new AbortController()
  const stream = await model.stream('word '.repeat(20), { signal: controller.signal })
  await failureOf((async () => {
    for await (const _ of stream) controller.abort()
  })())
  assert.match((await model.invoke('Hello there')).content, /Hello there/)
})

test('a stream ends although the node keeps the connection open', async () => {
  await withFault(linger, async () => assert.match(await read(chat()), /Hello there/))
})

for (const fault of [...brokenStreams, 'empty-answer']) {
  test(`a broken stream is an error: ${fault}`, async () => {
    await withFault(fault, async () => {
      const error = await failureOf(read(chat()))
      assert.ok(error.message.length > 0)
    })
  })
}

test('errors have their status, code and message', async () => {
  await withFault('model-context-length', async () => {
    const error = await failureOf(chat().invoke('Hello there'))
    assert.match(error.message, /maximum context length/)
  })
  await withFault(limitedWithLink, async () => {
    const error = await failureOf(chat().invoke('Hello there'))
    assert.equal(error.status, 429)
    assert.ok(error.message.includes(`Visit ${link} to learn more.`), error.message)
  })
  let error = await failureOf(chat({ useResponsesApi: true }).invoke('Hello there'))
  assert.equal(error.status, 404)
  assert.equal(error.code, 'unknown_url')
  assert.match(error.message, /does not have this route/)
  error = await failureOf(chat({ model: 'llama-3.3-70c' }).invoke('Hello there'))
  assert.match(error.message, /llama-3\.3-70b/)
  error = await failureOf(chat({ apiKey: 'nobody' }).invoke('Hello there'))
  assert.equal(error.status, 401)
  const apiKey = key()
  await chat({ apiKey }, limited).invoke('Hello there')
  error = await failureOf(chat({ apiKey, model: 'gpt-oss-120b' }, limited).invoke('Hello there'))
  assert.equal(error.status, 429)
})
