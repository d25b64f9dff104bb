/** Gives each line, without its `\n`, once that has come; what has come of the next is kept until then. */
export class LineSplitter {
  #decoder = new TextDecoder();
  #pieces: string[] = [];

  feed(bytes: Uint8Array): string[] {
    const [first = "", ...others] = this.#decoder.decode(bytes, { stream: true }).split("\n");
    this.#pieces.push(first);
    const rest = others.pop();
    if (rest === undefined) return [];
    const whole = this.#pieces.join("");
    this.#pieces = [rest];
    return [whole, ...others];
  }
}
