/** A POSIX tar (ustar) of small files: training rows travel with their pictures. */

const BLOCK = 512;

function header(name: string, size: number): Uint8Array<ArrayBuffer> {
  const block = new Uint8Array(BLOCK);
  const put = (text: string, at: number) => block.set(new TextEncoder().encode(text), at);
  const octal = (value: number, digits: number) => value.toString(8).padStart(digits, "0") + "\0";
  put(name, 0);
  put(octal(0o644, 7), 100);
  put(octal(0, 7) + octal(0, 7), 108);
  put(octal(size, 11) + octal(0, 11), 124);
  put("        0", 148);
  put("ustar\u000000", 257);
  const sum = block.reduce((total, byte) => total + byte, 0);
  put(octal(sum, 6) + " ", 148);
  return block;
}

/** Names are ASCII, at most 100 characters: `filesOf` makes them so. */
export async function tar(files: readonly (readonly [name: string, content: Blob])[]): Promise<Blob> {
  const parts: BlobPart[] = [];
  for (const [name, content] of files) {
    parts.push(header(name, content.size), content, new Uint8Array((BLOCK - (content.size % BLOCK)) % BLOCK));
  }
  return new Blob([...parts, new Uint8Array(2 * BLOCK)], { type: "application/x-tar" });
}

const ENDS: Record<string, string> = { "image/jpeg": "jpg", "image/png": "png", "image/webp": "webp" };

/** A name that any file system takes. */
export function fileName(id: string, type: string): string {
  return `images/${id.replace(/[^\w-]/g, "")}.${ENDS[type] ?? (/^image\/(\w+)/.exec(type)?.[1] ?? "bin")}`;
}
