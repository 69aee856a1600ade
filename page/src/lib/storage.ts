/** Conversations kept in this browser, with their files (IndexedDB); in memory alone where that is forbidden. */

import type { Conversation } from "./types";

const STORE = "conversations";

function opened(): Promise<IDBDatabase> {
  return new Promise((done, failed) => {
    const request = indexedDB.open("omnimix", 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "id" });
    request.onsuccess = () => done(request.result);
    request.onerror = () => failed(request.error ?? new Error("no IndexedDB"));
  });
}

async function asked<T>(mode: IDBTransactionMode, ask: (store: IDBObjectStore) => IDBRequest<T>): Promise<T> {
  const database = await opened();
  try {
    return await new Promise<T>((done, failed) => {
      const transaction = database.transaction(STORE, mode);
      const request = ask(transaction.objectStore(STORE));
      transaction.oncomplete = () => done(request.result);
      transaction.onabort = () => failed(transaction.error ?? new Error("aborted"));
    });
  } finally {
    database.close();
  }
}

export async function kept(): Promise<Conversation[]> {
  const all = await asked<Conversation[]>("readonly", (store) => store.getAll()).catch(() => []);
  return all.sort((a, b) => b.changed - a.changed);
}

export async function keep(conversation: Conversation): Promise<void> {
  await asked("readwrite", (store) => store.put(conversation)).catch(() => undefined);
}

export async function forget(id: string): Promise<void> {
  await asked("readwrite", (store) => store.delete(id)).catch(() => undefined);
}

/** Small things: settings, the key. */
export function remembered<T extends object>(name: string, otherwise: T): T {
  try {
    return { ...otherwise, ...(JSON.parse(localStorage.getItem(`omnimix.${name}`) ?? "{}") as Partial<T>) };
  } catch {
    return otherwise;
  }
}

export function remember(name: string, value: object): void {
  try {
    localStorage.setItem(`omnimix.${name}`, JSON.stringify(value));
  } catch {
    // A browser that keeps nothing still chats.
  }
}
