// Azure Blob Storage by a shared access signature: the whole connector, in JavaScript.
//
// ComponentizeJS runs this module once, at build time, and keeps the engine as it is then. There is no clock (`Date.now()`
// stays at the build's time), no randomness, no `fetch`, no timers and no console: the host has `nowUnixMs`, `randomBytes`,
// `send` and `write`. `u64` is BigInt here, `list<u8>` Uint8Array, and an `option` that is none undefined.

import { Response, send } from 'raic:connector/http@0.1.0';
import { open } from 'raic:connector/secrets@0.1.0';
import { setting } from 'raic:connector/cloud@0.1.0';

/** The version of the service whose rules these are. */
const VERSION = '2023-11-03';
const MAX_ERROR = 64 << 10;
/** 1000 blobs with their properties are less than a third of it. */
const MAX_LISTING = 4 << 20;

/** What codes mean ("Blob service error codes"), and statuses with others. Requests are not dated: none fails by the clock. */
const KINDS = {
  'not-found': ['BlobNotFound', 'ResourceNotFound', 404],
  'container-not-found': ['ContainerNotFound', 'ContainerBeingDeleted'],
  'already-exists': ['BlobAlreadyExists'],
  'precondition-failed': ['ConditionNotMet', 'TargetConditionNotMet', 412],
  conflict: [409],
  'range-not-satisfiable': ['InvalidRange', 416],
  unauthenticated: ['AuthenticationFailed', 'InvalidAuthenticationInfo', 'NoAuthenticationInformation', 401],
  // And all codes that begin with `Authorization`.
  'permission-denied': ['InsufficientAccountPermissions', 'AccountIsDisabled', 403],
  archived: ['BlobArchived', 'BlobBeingRehydrated'],
  'too-large': ['RequestBodyTooLarge', 413],
  integrity: ['Md5Mismatch', 'Crc64Mismatch'],
  throttled: ['ServerBusy', 429],
  timeout: ['OperationTimedOut', 408],
  unsupported: [501],
  // The host follows no redirects.
  misconfigured: ['InvalidResourceName', 'OutOfRangeInput', 'InvalidUri', 'InvalidHeaderValue', 301, 302, 307, 308],
};

// Errors.

/** The contract's error, to be thrown: an `Error` of the language would be a trap. */
class Failure {
  constructor(kind, message, more) {
    Object.assign(this, { kind, message, extra: [] }, more);
  }
}

function kindOf(code, message, status) {
  // Azurite's word for a wrong signature.
  if (code === 'AuthorizationFailure' && message.includes('failed to authenticate')) return 'unauthenticated';
  if (code.startsWith('Authorization')) return 'permission-denied';
  const kind = (word) => Object.keys(KINDS).find((name) => KINDS[name].includes(word));
  return kind(code) ?? kind(status) ?? (status >= 500 ? 'unavailable' : 'protocol');
}

/** What an answer means that has none of the statuses wanted; undefined where it has. */
function failureOf(answer, wanted) {
  const status = answer.status();
  if (wanted.includes(status)) return undefined;
  // A HEAD's answer has the header only.
  let code = answer.header('x-ms-error-code') ?? '';
  let message = '';
  try {
    const error = need(new TextDecoder().decode(answer.read(MAX_ERROR)), 'Error').text;
    code ||= textOf(error, 'Code') ?? '';
    // The second line names the request, which the error has already.
    const text = textOf(error, 'AuthenticationErrorDetail') || textOf(error, 'Message') || '';
    message = text.trim().split(/[\r\n]/)[0].slice(0, 300);
  } catch {
    // What status and headers say is worth more than why there is no document.
  }
  const seconds = number(answer.header('retry-after'));
  return new Failure(kindOf(code, message, status), message || `the service answered ${status} ${code}`.trim(), {
    providerCode: code || undefined,
    httpStatus: status,
    requestId: answer.header('x-ms-request-id'),
    retryAfterMs: seconds === undefined ? undefined : seconds * 1000n,
  });
}

function expect(answer, wanted) {
  const failure = failureOf(answer, wanted);
  if (failure) throw failure;
}

// Requests.

/** Percent-encoded as RFC 3986 has it: `encodeURIComponent` leaves `!'()*`, which a URL parser may not. */
const encode = (text) =>
  encodeURIComponent(text).replace(/[!'()*]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`);

/** Sends a request for an object, or for the container where there is no key. The manifest requires settings and secret. */
function request(method, { key, query = {}, headers = {}, upload }) {
  const container = `${setting('endpoint')}/${encode(setting('container'))}`;
  const path = key === undefined ? '' : `/${key.split('/').map(encode).join('/')}`;
  const items = Object.entries(query).map(([name, value]) => `${name}=${encode(value)}`);
  // The signature is never seen here: what stands for it is a whole item of the query, and the host replaces it as it sends,
  // by all that a signature consists of: `sv=..&se=..&sig=..`.
  items.push(open('sas.signature').placeholder('raw'));
  // Header values are bytes: a text would arrive empty.
  const bytes = (text) => new TextEncoder().encode(text);
  const all = Object.entries({ 'x-ms-version': VERSION, ...headers }).map(([name, value]) => [name, bytes(value)]);
  const url = `${container}${path}?${items.join('&')}`;
  return send({ method, url, headers: all, content: new Uint8Array() }, upload);
}

const ifMatch = (etag) => (etag === undefined ? {} : { 'if-match': `"${etag}"` });

// Answers.

/** A number as BigInt, where it is one; of no more digits than a `u64` holds a thousand times of. */
const number = (text) => (/^\s*[0-9]{1,16}\s*$/.test(text ?? '') ? BigInt(text.trim()) : undefined);

/** From texts of headers or of a listing. Listings have etags without quotes: so do we. A weak one (`W/".."`) is none. */
function infoOf(size, etag, modified) {
  if (size === undefined) throw new Failure('protocol', 'the answer does not tell the size of an object');
  const at = Date.parse(modified ?? '');
  return {
    size,
    etag: /^\s*"?([^"]+?)"?\s*$/.exec(etag ?? '')?.[1],
    lastModifiedUnixMs: at >= 0 ? BigInt(at) : undefined, // Not so for NaN.
    extra: [],
  };
}

/** What the headers say of the whole object, also where they come with a part of it. */
function infoOfAnswer(answer) {
  const size = answer.header('content-range')?.split('/').at(-1) ?? answer.header('content-length');
  return infoOf(number(size), answer.header('etag'), answer.header('last-modified'));
}

// XML as Azure writes it: no comments, no CDATA, and no element inside another of its name. Found by `indexOf`, which is
// native: the engine only interprets here, and a loop over each character would use up the 200 ms that a call has.

const broken = (what) => new Failure('protocol', `the answer's XML cannot be read: ${what}`);

/** The first element of that name at or after `from`: what is in it, and where it ends. Undefined where there is none. */
function element(xml, name, from = 0) {
  for (let at = from; (at = xml.indexOf(`<${name}`, at)) !== -1; at += 1) {
    const after = at + 1 + name.length;
    if (!' />\t\r\n'.includes(xml.charAt(after))) continue; // `<Blobs>` where `<Blob>` is looked for.
    const start = xml.indexOf('>', after) + 1;
    if (start > 0 && xml.charAt(start - 2) === '/') return { text: '', end: start };
    const end = xml.indexOf(`</${name}>`, start);
    if (start === 0 || end === -1) throw broken(`${name} does not end`);
    return { text: xml.slice(start, end), end: end + name.length + 3 };
  }
  return undefined;
}

function need(xml, name) {
  const found = element(xml, name);
  if (!found) throw broken(`it lacks ${name}`);
  return found;
}

const ENTITIES = { '&amp;': '&', '&lt;': '<', '&gt;': '>', '&quot;': '"', '&apos;': "'" };

/** The text of the first element of that name, which has nothing but text. */
function textOf(xml, name) {
  const { text } = element(xml, name) ?? {};
  if (!text?.includes('&')) return text;
  return text.replace(/&[^;]*;?/g, (entity) => {
    if (Object.hasOwn(ENTITIES, entity)) return ENTITIES[entity];
    const [, hex, decimal] = /^&#(?:x([0-9a-fA-F]{1,6})|([0-9]{1,7}));$/.exec(entity) ?? [];
    const point = hex ? parseInt(hex, 16) : parseInt(decimal, 10);
    if (point <= 0x10ffff) return String.fromCodePoint(point);
    throw broken(`${entity.slice(0, 10)} is no entity`);
  });
}

function pageOf(document) {
  const result = need(new TextDecoder().decode(document), 'EnumerationResults').text;
  if (result.includes('<!')) throw broken('comments and CDATA are not expected');
  const blobs = need(result, 'Blobs');
  const entries = [];
  for (let blob, at = 0; (blob = element(blobs.text, 'Blob', at)) !== undefined; at = blob.end) {
    const key = textOf(blob.text, 'Name');
    if (!key) throw broken('a Blob has no Name');
    const of = (name) => textOf(blob.text, name);
    if (of('ResourceType') === 'directory') continue; // A hierarchical namespace lists folders, which nobody stored.
    entries.push({ key, info: infoOf(number(of('Content-Length')), of('Etag'), of('Last-Modified')) });
  }
  // A page may be empty and go on; the last has an empty marker.
  return { entries, next: textOf(result.slice(blobs.end), 'NextMarker') || undefined };
}

// The contract.

const contract = {
  describe() {
    const size = String(5000 * 2 ** 20); // What one Put Blob takes.
    const said = { 'create-only': 'native', 'if-match': 'native', 'ordered-list': 'yes', consistency: 'strong' };
    return Object.entries({ ...said, 'max-object-size': size });
  },

  probe() {
    contract.list('', undefined, 1);
  },

  put(key, content, mode) {
    const headers = { 'x-ms-blob-type': 'BlockBlob', 'content-type': 'application/octet-stream' };
    // TLS keeps the bytes as they are; without it their digest does.
    if (setting('endpoint').startsWith('http:')) headers['content-md5'] = btoa(String.fromCharCode(...content.digest('md5')));
    if (mode.tag === 'create-only') headers['if-none-match'] = '*';
    if (mode.tag === 'if-match') Object.assign(headers, ifMatch(mode.val));
    const answer = request('PUT', { key, headers, upload: content });
    const failure = failureOf(answer, [201]);
    if (failure?.kind === 'precondition-failed' && mode.tag === 'create-only') failure.kind = 'already-exists';
    if (failure) throw failure;
    return infoOf(content.size(), answer.header('etag'), answer.header('last-modified'));
  },

  get(key, range, etag) {
    const headers = ifMatch(etag);
    if (range) headers['x-ms-range'] = `bytes=${range.offset}-${range.offset + range.length - 1n}`;
    const answer = request('GET', { key, headers });
    expect(answer, [200, 206]);
    const info = infoOfAnswer(answer);
    // Azurite answers with nothing.
    if (range && range.offset >= info.size) {
      throw new Failure('range-not-satisfiable', `the range begins past the end of the object (${info.size} bytes)`);
    }
    // A static function that takes the response away: `answer` is of no use afterwards.
    return [info, Response.intoBody(answer)];
  },

  head(key) {
    const answer = request('HEAD', { key });
    expect(answer, [200]);
    return infoOfAnswer(answer);
  },

  delete(key, etag) {
    const failure = failureOf(request('DELETE', { key, headers: { ...ifMatch(etag), 'x-ms-delete-snapshots': 'include' } }), [202]);
    if (failure && failure.kind !== 'not-found') throw failure;
  },

  list(prefix, cursor, limit) {
    const query = { comp: 'list', restype: 'container', maxresults: String(limit) };
    if (prefix) query.prefix = prefix;
    if (cursor !== undefined) query.marker = cursor;
    const answer = request('GET', { query });
    expect(answer, [200]);
    return pageOf(answer.read(MAX_LISTING));
  },
};

/** Hands on what an import failed with (ComponentizeJS throws it as `payload` of an `Error`), and tells the host of an
 * exception that nobody thought of: uncaught it would be a trap, and its text be lost. */
const reported = (name, method) => (...given) => {
  try {
    return method(...given);
  } catch (e) {
    throw e instanceof Failure ? e : (e?.payload ?? new Failure('internal', `${name}: ${e}`));
  }
};

export const objectStore = Object.fromEntries(
  Object.entries(contract).map(([name, method]) => [name, reported(name, method)]),
);
