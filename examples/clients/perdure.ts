// A Perdure client in a page of TypeScript, with nothing but fetch: copy it.
//
//   node examples/clients/perdure.ts Ada Bo     # beside `perdure up`
//
// PERDURE_API_URL says where the API is, PERDURE_API_TOKEN who you are. The
// types are erasable: a Node that strips types runs the file as it is.

export type Task = {
  kind: string;
  payload?: unknown;
  payload_base64?: string; // instead, with its content_type
  content_type?: string;
  queue?: string;
  key?: string;
  idempotency_key?: string;
  unique_key?: string;
  run_at?: string;
  deadline?: string;
  headers?: Record<string, string>;
};

export type Accepted = { id: string; seq: number; state: string; replayed?: boolean; duplicate?: boolean };

// Problem is RFC 9457; errors[].pointer says where.
export type Problem = { status: number; type?: string; detail?: string; next?: string; errors?: { pointer: string; detail: string }[] };

// Line answers one task of enqueueEach: id where it was accepted, else a problem;
// idempotency_key where it may have been accepted after all: send it again with that.
export type Line = { line: number; idempotency_key?: string } & Partial<Accepted> & Partial<Problem>;

// after is when it may be taken, in seconds, where the API says so.
export class Refused extends Error {
  readonly problem: Problem;
  readonly after?: number;
  constructor(problem: Problem, after?: number) {
    super(JSON.stringify(problem));
    this.problem = problem;
    this.after = after;
  }
}

const wait = 200; // ms between tries where the answer has no Retry-After
const most = 60; // s that it waits as Retry-After says; longer (a day's quota) is for the caller to decide
const sleep = (ms: number) => new Promise((done) => setTimeout(done, ms));

// With an idempotency_key a second try is no second task. Better is a key of
// your own, such as the order's: it outlives this process.
const keyed = (t: Task): Task => (t.idempotency_key ? t : { ...t, idempotency_key: crypto.randomUUID() });

export class Client {
  private readonly url: string;
  private readonly token: string;
  private readonly tries: number;
  constructor(url: string, token = "", tries = 8) {
    this.url = url.replace(/\/+$/, "");
    this.token = token;
    this.tries = tries;
  }

  async enqueue(task: Task): Promise<Accepted> {
    return JSON.parse(await this.post("application/json", JSON.stringify(keyed(task))));
  }

  // All of them or none: an answer each, in their order.
  async enqueueAll(tasks: Task[]): Promise<Accepted[]> {
    return JSON.parse(await this.post("application/json", JSON.stringify(tasks.map(keyed))));
  }

  // Every one that is right: an answer each, in their order.
  async enqueueEach(given: Task[]): Promise<Line[]> {
    const tasks = given.map(keyed);
    const answers: (Line | undefined)[] = tasks.map(() => undefined);
    let todo = [...tasks.keys()];
    for (let n = 0; n < this.tries; n++) {
      let lines: string[];
      try {
        lines = (await this.post("application/x-ndjson", todo.map((i) => JSON.stringify(tasks[i]) + "\n").join(""))).split("\n");
      } catch (e) {
        if (n === 0 && e instanceof Refused) throw e;
        break;
      }
      for (const text of lines) {
        if (text === "") continue;
        const answer: Line = JSON.parse(text);
        const i = todo[answer.line - 1];
        answers[i] = { ...answer, line: i + 1 };
      }
      // The stream ends early where Postgres goes away: the rest again.
      todo = todo.filter((i) => answers[i] === undefined || [409, 429, 503].includes(answers[i]?.status ?? 0));
      if (todo.length === 0) return answers as Line[];
      await sleep(wait);
    }
    for (const i of todo) {
      const unknown = { line: i + 1, status: 503, detail: "no answer: it may have been accepted" };
      answers[i] = { ...(answers[i] ?? unknown), idempotency_key: tasks[i].idempotency_key };
    }
    return answers as Line[];
  }

  private async post(media: string, body: string): Promise<string> {
    const headers: Record<string, string> = { "Content-Type": media };
    const patience = media === "application/x-ndjson" ? 600_000 : 60_000; // a token's rate slows a stream down
    if (this.token) headers.Authorization = `Bearer ${this.token}`;
    for (let left = this.tries - 1; ; left--) {
      let answer: Response, text: string;
      try {
        answer = await fetch(`${this.url}/v1/tasks`, { method: "POST", headers, body, signal: AbortSignal.timeout(patience) });
        text = await answer.text();
      } catch (e) {
        // Nobody knows whether it was accepted: the keys make it safe to ask again.
        if (left <= 0) throw e;
        await sleep(wait);
        continue;
      }
      if (answer.ok) return text;
      const said = answer.headers.get("Retry-After") ?? "";
      const after = /^\d+$/.test(said) ? Number(said) : undefined;
      if ((answer.status !== 429 && answer.status !== 503) || left <= 0 || (after ?? 0) > most) throw new Refused(problemOf(answer.status, text), after);
      await sleep(after === undefined ? wait : after * 1000);
    }
  }
}

function problemOf(status: number, text: string): Problem {
  try {
    return JSON.parse(text);
  } catch {
    return { status, detail: "not an answer of Perdure's" }; // of a proxy on the way
  }
}

const hello = (name: string, who: string): Task => ({ kind: "hello.say", payload: { name: who }, idempotency_key: `${name}-${who}` });

const names = process.argv.slice(2);
if (names.length > 0) {
  const perdure = new Client(process.env.PERDURE_API_URL ?? "", process.env.PERDURE_API_TOKEN);
  const print = (v: unknown) => console.log(JSON.stringify(v));
  print(await perdure.enqueue(hello("one", names[0])));
  print(await perdure.enqueueAll(names.map((n) => hello("all", n))));
  for (const answer of await perdure.enqueueEach([hello("each", names[0]), { kind: "hello.say" }, ...names.slice(1).map((n) => hello("each", n))])) print(answer);
  try {
    await perdure.enqueue({ kind: "hello.sya", payload: {} });
  } catch (e) {
    if (!(e instanceof Refused)) throw e;
    print(e.problem);
  }
}
