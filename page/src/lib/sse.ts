/** Server-sent events (WHATWG HTML, section 9.2), read as they come. */

export async function* events(body: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const reader = body.pipeThrough(new TextDecoderStream() as ReadableWritablePair<string, Uint8Array>).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      rest += done ? "\n\n" : value;
      // A lone \r at the end may be half of \r\n.
      const whole = rest.endsWith("\r") ? rest.slice(0, -1) : rest;
      const blocks = whole.replace(/\r\n?/g, "\n").split("\n\n");
      rest = (blocks.pop() ?? "") + (whole === rest ? "" : "\r");
      for (const block of blocks) {
        const data = block
          .split("\n")
          .filter((line) => line.startsWith("data:"))
          .map((line) => line.slice(5).replace(/^ /, ""))
          .join("\n");
        if (data) yield data;
      }
      if (done) return;
    }
  } finally {
    // Who stops listening hangs up, and the server stops writing.
    await reader.cancel().catch(() => undefined);
  }
}
