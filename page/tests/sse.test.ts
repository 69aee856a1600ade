// @vitest-environment node
import { expect, it } from "vitest";
import { events } from "../src/lib/sse";

const stream = (...pieces: string[]) =>
  new ReadableStream<Uint8Array>({
    start(controller) {
      pieces.forEach((piece) => controller.enqueue(new TextEncoder().encode(piece)));
      controller.close();
    },
  });

const all = async (...pieces: string[]) => {
  const found = [];
  for await (const data of events(stream(...pieces))) found.push(data);
  return found;
};

it("reads events however they are cut", async () => {
  const text = 'data: {"a":1}\n\n: still there\n\ndata: two\ndata: lines\r\n\r\ndata:[DONE]\n\n';
  const expected = ['{"a":1}', "two\nlines", "[DONE]"];
  expect(await all(text)).toEqual(expected);
  for (let cut = 1; cut < text.length; cut++) {
    expect(await all(text.slice(0, cut), text.slice(cut)), `cut at ${cut}`).toEqual(expected);
  }
});

it("an event without its empty line counts when the stream ends", async () =>
  expect(await all("data: last")).toEqual(["last"]));
