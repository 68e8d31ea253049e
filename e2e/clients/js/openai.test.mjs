// The official OpenAI SDK.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import OpenAI, { toFile } from 'openai'
import {
  base, limited, key, chatModel, embeddingModel, speechModel, transcriptionModel, withFault, failureOf, brokenStreams, linger, link, limitedWithLink,
} from './harness.mjs'

const client = (options = {}) => new OpenAI({ baseURL: base, apiKey: key(), maxRetries: 0, timeout: 60_000, ...options })
const hello = { model: chatModel, messages: [{ role: 'user', content: 'Hello there' }] }
const weather = {
  type: 'function',
  function: { name: 'weather', parameters: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] } },
}

// read returns a stream's text, and its error or its reason to finish.
async function read(stream) {
  let text = ''
  let finish
  try {
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta?.content ?? ''
      finish = chunk.choices[0]?.finish_reason ?? finish
    }
  } catch (error) {
    return { text, error }
  }
  return { text, finish }
}

test('chats bring no session, and reuse the one that was opened', async () => {
  const openai = client()
  const { data, response } = await openai.chat.completions.create(hello).withResponse()
  assert.match(data.choices[0].message.content, /Hello there/)
  assert.equal(data.choices[0].finish_reason, 'stop')
  const session = response.headers.get('x-automation-session')
  assert.match(session, /^0x[0-9a-f]{64}$/)
  for (let i = 0; i < 3; i++) {
    const stream = await openai.chat.completions.create({ ...hello, stream: true }).withResponse()
    const { text, finish, error } = await read(stream.data)
    assert.equal(error, undefined)
    assert.match(text, /Hello there/)
    assert.equal(finish, 'stop')
    assert.equal(stream.response.headers.get('x-automation-session'), session, 'the session was not reused after [DONE]')
  }
})

test('streams report their usage', async () => {
  const stream = await client().chat.completions.create({ ...hello, stream: true, stream_options: { include_usage: true } })
  let usage
  for await (const chunk of stream) usage = chunk.usage ?? usage
  assert.ok(usage.total_tokens > 0)
})

test('tools are called, streamed or not', async () => {
  const openai = client()
  const params = { ...hello, tools: [weather], tool_choice: 'required' }
  const [call] = (await openai.chat.completions.create(params)).choices[0].message.tool_calls
  assert.equal(call.function.name, 'weather')
  assert.ok('city' in JSON.parse(call.function.arguments))
  const final = await openai.chat.completions.stream(params).finalChatCompletion()
  assert.equal(final.choices[0].message.tool_calls[0].function.name, 'weather')
  assert.equal(final.choices[0].finish_reason, 'tool_calls')
  const answer = await openai.chat.completions.create({
    model: chatModel,
    messages: [...hello.messages, { role: 'assistant', tool_calls: [call] }, { role: 'tool', tool_call_id: call.id, content: 'sunny' }],
  })
  assert.match(answer.choices[0].message.content, /sunny/)
})

test('JSON mode answers in JSON', async () => {
  const answer = await client().chat.completions.create({ ...hello, response_format: { type: 'json_object' } })
  assert.equal(typeof JSON.parse(answer.choices[0].message.content), 'object')
})

test('n, stop and max_tokens reach the model', async () => {
  const openai = client()
  assert.equal((await openai.chat.completions.create({ ...hello, n: 2 })).choices.length, 2)
  assert.doesNotMatch((await openai.chat.completions.create({ ...hello, stop: 'there' })).choices[0].message.content, /there/)
  assert.equal((await openai.chat.completions.create({ ...hello, max_tokens: 1 })).choices[0].finish_reason, 'length')
})

test('embeddings come as numbers', async () => {
  const { data } = await client().embeddings.create({ model: embeddingModel, input: ['one', 'two'] })
  assert.equal(data.length, 2)
  assert.ok(data[0].embedding.length > 0 && data[0].embedding.every(Number.isFinite))
})

test('speech and transcription work', async () => {
  const openai = client()
  const speech = await openai.audio.speech.create({ model: speechModel, voice: 'alloy', input: 'Hello' })
  const audio = await speech.arrayBuffer()
  assert.ok(audio.byteLength > 0)
  const text = await openai.audio.transcriptions.create({ model: transcriptionModel, file: await toFile(audio, 'hello.wav') })
  assert.ok(text.text.length > 0)
})

test('models are listed and retrieved', async () => {
  const openai = client()
  const ids = []
  for await (const model of openai.models.list()) {
    assert.equal(model.object, 'model')
    ids.push(model.id)
  }
  assert.equal(new Set(ids).size, ids.length)
  assert.ok(ids.length > 5)
  for (const id of ids.slice(0, 5)) assert.equal((await openai.models.retrieve(id)).id, id)
  const error = await failureOf(openai.models.retrieve('no/such:model'))
  assert.ok(error instanceof OpenAI.NotFoundError && error.code === 'model_not_found', String(error))
})

test('five models can be tried in a row, and the session of the first is kept', async () => {
  const openai = client()
  const chat = async (model) => {
    const { data, response } = await openai.chat.completions.create({ ...hello, model }).withResponse()
    assert.match(data.choices[0].message.content, /Hello there/, model)
    return response.headers.get('x-automation-session')
  }
  const sessions = []
  for (const model of [chatModel, 'llama-3.2-3b', 'qwen3-235b', 'glm-4.7', 'gpt-oss-120b']) sessions.push(await chat(model))
  assert.equal(new Set(sessions).size, 5)
  let first // becomes idle soon after its answer
  do first = (await openai.get('/automation/sessions')).sessions.find(({ id }) => id === sessions[0])
  while (first?.state === 'in_use')
  assert.equal(first?.state, 'idle', 'the first session is not idle')
  assert.equal(await chat(chatModel), sessions[0], 'the first session is not reused')
})

test('an abort ends a stream, and the next chat works', async () => {
  const openai = client()
  const long = { model: chatModel, stream: true, messages: [{ role: 'user', content: 'word '.repeat(20) }] }
  for (let i = 0; i < 3; i++) {
    const stream = await openai.chat.completions.create(long)
    for await (const _ of stream) break // aborts the request
    const controller = new AbortController()
    const pending = openai.chat.completions.create(long, { signal: controller.signal })
    controller.abort()
    assert.ok((await failureOf(pending)) instanceof OpenAI.APIUserAbortError)
  }
  assert.match((await openai.chat.completions.create(hello)).choices[0].message.content, /Hello there/)
})

test('a stream ends with [DONE] although the node keeps the connection open', async () => {
  await withFault(linger, async () => {
    const { text, finish, error } = await read(await client().chat.completions.create({ ...hello, stream: true }))
    assert.equal(error, undefined)
    assert.equal(finish, 'stop')
    assert.match(text, /Hello there/)
  })
})

for (const fault of brokenStreams) {
  test(`a broken stream is an error: ${fault}`, async () => {
    await withFault(fault, async () => {
      const { text, error } = await read(await client().chat.completions.create({ ...hello, stream: true }))
      assert.ok(error instanceof OpenAI.APIError, `got ${error} after ${JSON.stringify(text)}`)
      assert.ok(error.message.length > 0)
      assert.ok(text.length > 0, 'the text before the error is lost')
    })
  })
}

test('an empty answer is an error', async () => {
  await withFault('empty-answer', async () => {
    for (const stream of [false, true]) {
      const error = await failureOf(client().chat.completions.create({ ...hello, stream }))
      assert.equal(error.status, 502)
    }
  })
})

test('a truncated answer is an error', async () => {
  await withFault('chat-cut', async () => {
    const error = await failureOf(client().chat.completions.create(hello))
    assert.ok(error instanceof OpenAI.APIError, String(error))
  })
})

test('errors of the model keep their code, parameter and type', async () => {
  for (const [fault, type, expected] of [
    ['model-context-length', OpenAI.BadRequestError, { status: 400, code: 'context_length_exceeded', param: 'messages', type: 'invalid_request_error' }],
    ['model-content-filter', OpenAI.BadRequestError, { status: 400, code: 'content_filter', param: 'prompt', type: 'invalid_request_error' }],
    ['model-rate-limit', OpenAI.RateLimitError, { status: 429, code: 'rate_limit_exceeded', type: 'requests' }],
  ]) {
    await withFault(fault, async () => {
      const error = await failureOf(client().chat.completions.create(hello))
      assert.ok(error instanceof type, `${fault}: ${error}`)
      for (const [name, value] of Object.entries(expected)) assert.equal(error[name], value, `${fault}: ${name}`)
      assert.doesNotMatch(error.message, /[{}]/, 'the message is a JSON text')
      if (fault === 'model-rate-limit') assert.equal(error.headers.get('retry-after'), '7')
    })
  }
})

test("a link in a model's own error reaches the user", async () => {
  await withFault(limitedWithLink, async () => {
    for (const stream of [false, true]) {
      const error = await failureOf(client().chat.completions.create({ ...hello, stream }))
      assert.ok(error instanceof OpenAI.RateLimitError && error.code === 'rate_limit_exceeded', String(error))
      assert.equal(error.error.message, `Rate limit reached. Visit ${link} to learn more.`)
    }
  })
})

test('a route that the node lacks is not found, also the second time', async () => {
  const openai = client()
  for (let i = 0; i < 2; i++) {
    const error = await failureOf(openai.responses.create({ model: chatModel, input: 'Hello there' }))
    assert.ok(error instanceof OpenAI.NotFoundError && error.code === 'unknown_url', String(error))
    assert.match(error.message, /does not have this route/)
  }
})

test('failures of the provider are 5xx', async () => {
  for (const fault of ['provider-down', 'model-overloaded', 'chat-drop', 'tee-failed', 'switching-protocols', 'redirect']) {
    await withFault(fault, async () => {
      const error = await failureOf(client().chat.completions.create(hello))
      assert.ok(error instanceof OpenAI.InternalServerError, `${fault}: ${error}`)
      assert.ok(error.error?.message, `${fault}: not OpenAI's shape`)
    })
  }
})

test("a node that refuses the gateway's credentials is a server error for the user", async () => {
  const openai = client()
  await openai.chat.completions.create(hello)
  await withFault('credentials-refused', async () => {
    const error = await failureOf(openai.chat.completions.create(hello))
    assert.ok(error instanceof OpenAI.InternalServerError, String(error))
    assert.doesNotMatch(error.message, /username|password/i)
  })
})

test('a session that the provider reports as expired is replaced without an error', async () => {
  const openai = client()
  await openai.chat.completions.create(hello)
  await withFault({ name: 'chat-expired', times: 1 }, async () => {
    assert.match((await openai.chat.completions.create(hello)).choices[0].message.content, /Hello there/)
  })
})

test('mistakes of the client have their own status and code', async () => {
  const openai = client()
  let error = await failureOf(openai.chat.completions.create({ ...hello, model: 'llama-3.3-70c' }))
  assert.ok(error instanceof OpenAI.BadRequestError && error.code === 'model_not_found' && error.param === 'model', String(error))
  assert.match(error.message, /llama-3\.3-70b/)
  error = await failureOf(openai.chat.completions.create({ ...hello, model: embeddingModel }))
  assert.ok(error instanceof OpenAI.BadRequestError && error.code === 'model_type_mismatch', String(error))
  error = await failureOf(openai.chat.completions.create(hello, { headers: { session_id: 'nonsense' } }))
  assert.ok(error instanceof OpenAI.BadRequestError && error.code === 'invalid_session_id', String(error))
  error = await failureOf(client({ apiKey: 'nobody' }).chat.completions.create(hello))
  assert.ok(error instanceof OpenAI.AuthenticationError && error.code === 'invalid_api_key', String(error))
  error = await failureOf(openai.post('/no/such/route', { body: {} }))
  assert.ok(error instanceof OpenAI.NotFoundError && error.code === 'unknown_url', String(error))
  error = await failureOf(openai.get('/chat/completions'))
  assert.ok(error.status === 405 && error.error.message, String(error))
})

test('a session serves only its own user', async () => {
  const { response } = await client().chat.completions.create(hello).withResponse()
  const session = response.headers.get('x-automation-session')
  for (const id of [session, session.slice(2), session.toUpperCase().replace('0X', '0x')]) {
    const error = await failureOf(client().chat.completions.create(hello, { headers: { session_id: id } }))
    assert.ok(error instanceof OpenAI.NotFoundError && error.code === 'session_not_found', `${id}: ${error}`)
  }
})

test('the error of an exhausted budget has Retry-After, and the SDK does not retry', async () => {
  const openai = client({ baseURL: limited, maxRetries: 2 })
  await openai.chat.completions.create(hello)
  const error = await failureOf(openai.chat.completions.create({ ...hello, model: 'gpt-oss-120b' })) // a retry would wait until the test times out
  assert.ok(error instanceof OpenAI.RateLimitError && error.code === 'session_budget_exceeded', String(error))
  assert.ok(Number(error.headers.get('retry-after')) > 60)
  assert.equal(error.headers.get('x-should-retry'), 'false')
})
