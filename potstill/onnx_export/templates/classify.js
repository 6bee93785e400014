// Labels texts with the student of this folder, as its service does. README.md says how to get transformers.js.
import { AutoModelForSequenceClassification, AutoTokenizer, Tensor, env } from "@huggingface/transformers";

/**
 * Load the student.
 * @param {string} folder Address of this folder.
 * @returns {Promise<(text: string, second?: string) => Promise<object>>} Answers a text, or a pair of texts, with
 *   {label, probabilities}, {labels, probabilities} where several may apply, or {score} for a number.
 */
export async function load(folder = new URL(".", import.meta.url).href) {
  env.allowRemoteModels = false;
  env.allowLocalModels = true;
  env.localModelPath = new URL(folder, location.href).href;
  env.useBrowserCache = false; // it would keep this student after the next one has taken its place
  const [tokenizer, model] = await Promise.all([
    AutoTokenizer.from_pretrained("."),
    AutoModelForSequenceClassification.from_pretrained("."),
  ]);
  const card = model.config.potstill;
  return async (text, second) => {
    // transformers.js takes an empty second text for none.
    const { logits } = await model(encode(tokenizer, card, text, card.pair ? second || " " : null));
    return answer(card, Array.from(logits.data));
  };
}

/** Tokenize a text or a pair; of one that is too long, words are left out and the special tokens stay. */
function encode(tokenizer, card, text, second) {
  const types = card.inputs.includes("token_type_ids");
  const inputs = tokenizer(text, { text_pair: second, return_token_type_ids: types });
  const total = inputs.input_ids.dims[1];
  if (total <= card.max_length) return inputs;
  const length = (part) => tokenizer.encode(part, { add_special_tokens: false }).length;
  const lengths = [length(text), second === null ? 0 : length(second)];
  const kept = keptLengths(...lengths, card.max_length - (total - lengths[0] - lengths[1]));
  const starts = [card.before, total - card.after - lengths[1]];
  const dropped = starts.map((start, part) =>
    card.truncation_side === "left"
      ? [start, start + lengths[part] - kept[part]]
      : [start + kept[part], start + lengths[part]],
  );
  const positions = [...Array(total).keys()].filter((at) => !dropped.some(([from, to]) => from <= at && at < to));
  const cut = ({ data }) => new Tensor("int64", BigInt64Array.from(positions, (at) => data[at]), [1, positions.length]);
  return Object.fromEntries(Object.entries(inputs).map(([name, tensor]) => [name, cut(tensor)]));
}

/** Tokens that stay of each text of a pair: the longer one is cut first, as by the library `tokenizers`. */
function keptLengths(first, second, room) {
  const short = Math.min(first, second);
  if (first + second <= room) return [first, second];
  if (short <= Math.floor(room / 2)) return first < second ? [short, room - short] : [room - short, short];
  const half = Math.floor(room / 2);
  return first > second ? [room - half, half] : [half, room - half];
}

/** Turn logits, which are divided by the temperature already, into the service's answer. */
function answer(card, logits) {
  if (card.task === "regression") return { score: logits[0] };
  const named = (values) => Object.fromEntries(values.map((value, at) => [card.labels[at], value]));
  if (card.task === "multi_label") {
    const shares = logits.map((logit) => 1 / (1 + Math.exp(-logit)));
    return { labels: card.labels.filter((_, at) => logits[at] > 0), probabilities: named(shares) };
  }
  const largest = Math.max(...logits);
  const powers = logits.map((logit) => Math.exp(logit - largest));
  const sum = powers.reduce((total, power) => total + power);
  return { label: card.labels[logits.indexOf(largest)], probabilities: named(powers.map((power) => power / sum)) };
}
