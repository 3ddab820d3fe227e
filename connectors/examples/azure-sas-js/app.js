// Azure Blob Storage by a shared access signature: the whole connector, in JavaScript.
//
// ComponentizeJS runs this module once, at build time, and keeps the engine as it is then. There is
// no clock (`Date.now()` stays at the build's time), no randomness, no `fetch`, no timers and no
// console: the host has `nowUnixMs`, `randomBytes`, `send` and `write`. Of the contract's types,
// `u64` is a BigInt here, `list<u8>` a Uint8Array, and `none` of an `option` is undefined.

import { Response, send } from 'raic:connector/http@0.1.0';
import { open } from 'raic:connector/secrets@0.1.0';
import { setting } from 'raic:connector/cloud@0.1.0';

/** The version of the service's API, by whose rules requests are made. */
const VERSION = '2023-11-03';
/** The most that is read of an error document, in bytes. */
const MAX_ERROR = 64 << 10;
/** The most that is read of a listing, in bytes: 1000 blobs take less than a third of it. */
const MAX_LISTING = 4 << 20;

/** The kinds of error: what codes mean ("Blob service error codes"), and what statuses mean with
 * other codes. Requests are not dated, so none fails by the clock. */
const KINDS = {
  'not-found': ['BlobNotFound', 'ResourceNotFound', 404],
  'container-not-found': ['ContainerNotFound', 'ContainerBeingDeleted'],
  'already-exists': ['BlobAlreadyExists'],
  'precondition-failed': ['ConditionNotMet', 'TargetConditionNotMet', 412],
  conflict: [409],
  'range-not-satisfiable': ['InvalidRange', 416],
  unauthenticated: [
    'AuthenticationFailed', 'InvalidAuthenticationInfo', 'NoAuthenticationInformation', 401,
  ],
  // And all codes that begin with `Authorization`.
  'permission-denied': ['InsufficientAccountPermissions', 'AccountIsDisabled', 403],
  archived: ['BlobArchived', 'BlobBeingRehydrated'],
  'too-large': ['RequestBodyTooLarge', 413],
  integrity: ['Md5Mismatch', 'Crc64Mismatch'],
  throttled: ['ServerBusy', 429],
  timeout: ['OperationTimedOut', 408],
  unsupported: [501],
  // The host follows no redirects.
  misconfigured: [
    'InvalidResourceName', 'OutOfRangeInput', 'InvalidUri', 'InvalidHeaderValue',
    301, 302, 307, 308,
  ],
};

// Errors.

/** The contract's error, to be thrown. An `Error` of the language would be a trap. */
class Failure {
  constructor(kind, message, more) {
    Object.assign(this, { kind, message, extra: [] }, more);
  }
}

function kindOf(code, message, status) {
  // What Azurite answers to a wrong signature.
  const isWrongSignature = message.includes('failed to authenticate');
  if (code === 'AuthorizationFailure' && isWrongSignature) return 'unauthenticated';
  if (code.startsWith('Authorization')) return 'permission-denied';
  const kind = (word) => Object.keys(KINDS).find((name) => KINDS[name].includes(word));
  return kind(code) ?? kind(status) ?? (status >= 500 ? 'unavailable' : 'protocol');
}

/** The error that an answer means; undefined if its status is one of those wanted. */
function failureOf(answer, wanted) {
  const status = answer.status();
  if (wanted.includes(status)) return undefined;
  // The answer to a HEAD has the code in the header only.
  let code = answer.header('x-ms-error-code') ?? '';
  let message = '';
  try {
    const error = need(new TextDecoder().decode(answer.read(MAX_ERROR)), 'Error').text;
    code ||= textOf(error, 'Code') ?? '';
    // The second line names the request, whose id the error has already.
    const text = textOf(error, 'AuthenticationErrorDetail') || textOf(error, 'Message') || '';
    message = text.trim().split(/[\r\n]/)[0].slice(0, 300);
  } catch {
    // Status and headers say more than the reason why there is no document.
  }
  const seconds = number(answer.header('retry-after'));
  const shown = message || `the service answered ${status} ${code}`.trim();
  return new Failure(kindOf(code, message, status), shown, {
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

/** Percent-encoded as in RFC 3986. `encodeURIComponent` leaves `!'()*`, which a URL parser may
 * not. */
const encode = (text) => {
  const hex = (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`;
  return encodeURIComponent(text).replace(/[!'()*]/g, hex);
};

/** Sends a request for an object, or for the container if there is no key. Settings and secret are
 * there, since the manifest requires them. */
function request(method, { key, query = {}, headers = {}, upload }) {
  const container = `${setting('endpoint')}/${encode(setting('container'))}`;
  const path = key === undefined ? '' : `/${key.split('/').map(encode).join('/')}`;
  const items = Object.entries(query).map(([name, value]) => `${name}=${encode(value)}`);
  // The signature is never seen here: a placeholder stands for it, as a whole item of the query. As
  // the host sends, it replaces it by all that a signature consists of: `sv=..&se=..&sig=..`.
  items.push(open('sas.signature').placeholder('raw'));
  // Header values are bytes: a text would arrive empty.
  const bytes = (text) => new TextEncoder().encode(text);
  const pairs = Object.entries({ 'x-ms-version': VERSION, ...headers });
  const all = pairs.map(([name, value]) => [name, bytes(value)]);
  const url = `${container}${path}?${items.join('&')}`;
  return send({ method, url, headers: all, content: new Uint8Array() }, upload);
}

/** The condition that the object has that etag. */
const conditional = (ifMatch) => (ifMatch === undefined ? {} : { 'if-match': `"${ifMatch}"` });

// Answers.

/** A text as BigInt, if it is a number of at most 16 digits: a thousand times that still fits a
 * `u64`. Else undefined. */
const number = (text) => (/^\s*[0-9]{1,16}\s*$/.test(text ?? '') ? BigInt(text.trim()) : undefined);

/** What is known of an object, from texts of headers or of a listing. The etag is kept without
 * quotes, as listings have it; a weak one (`W/".."`) does not count. */
function infoOf(size, etag, modified) {
  if (size === undefined) {
    throw new Failure('protocol', 'the answer does not give the size of an object');
  }
  const date = Date.parse(modified ?? '');
  return {
    size,
    etag: /^\s*"?([^"]+?)"?\s*$/.exec(etag ?? '')?.[1],
    lastModifiedUnixMs: date >= 0 ? BigInt(date) : undefined, // NaN is not >= 0.
    extra: [],
  };
}

/** What the headers say of the whole object, also if they come with a part of it. */
function infoOfAnswer(answer) {
  const size = answer.header('content-range')?.split('/').at(-1) ?? answer.header('content-length');
  return infoOf(number(size), answer.header('etag'), answer.header('last-modified'));
}

// XML as Azure writes it: no comments, no CDATA, and no element inside another of its name.
// Elements are found by `indexOf`, which is native. The engine only interprets here: a loop over
// each character would use up the 200 ms of CPU time that a call has.

const broken = (what) => new Failure('protocol', `the answer's XML cannot be read: ${what}`);

/** The first element of that name at or after `from`: what is in it, and where it ends. Undefined
 * if there is none. */
function element(xml, name, from = 0) {
  for (let at = from; (at = xml.indexOf(`<${name}`, at)) !== -1; at += 1) {
    const after = at + 1 + name.length;
    // `<Blobs>` is not `<Blob>`.
    if (!' />\t\r\n'.includes(xml.charAt(after))) continue;
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
    throw broken(`${entity.slice(0, 10)} is not an entity`);
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
    const property = (name) => textOf(blob.text, name);
    // A hierarchical namespace lists folders too, which are not objects.
    if (property('ResourceType') === 'directory') continue;
    const size = number(property('Content-Length'));
    entries.push({ key, info: infoOf(size, property('Etag'), property('Last-Modified')) });
  }
  // An empty page may have a next one; the last page has an empty marker.
  return { entries, next: textOf(result.slice(blobs.end), 'NextMarker') || undefined };
}

// The contract.

const contract = {
  describe() {
    return Object.entries({
      'create-only': 'native',
      'if-match': 'native',
      'ordered-list': 'yes',
      consistency: 'strong',
      'max-object-size': String(5000 * 2 ** 20), // One Put Blob takes 5,000 MiB.
    });
  },

  probe() {
    contract.list('', undefined, 1);
  },

  put(key, content, mode) {
    const headers = { 'x-ms-blob-type': 'BlockBlob', 'content-type': 'application/octet-stream' };
    // TLS protects the bytes; without it their digest does.
    if (setting('endpoint').startsWith('http:')) {
      headers['content-md5'] = btoa(String.fromCharCode(...content.digest('md5')));
    }
    if (mode.tag === 'create-only') headers['if-none-match'] = '*';
    if (mode.tag === 'if-match') Object.assign(headers, conditional(mode.val));
    const answer = request('PUT', { key, headers, upload: content });
    const failure = failureOf(answer, [201]);
    if (failure?.kind === 'precondition-failed' && mode.tag === 'create-only') {
      failure.kind = 'already-exists';
    }
    if (failure) throw failure;
    return infoOf(content.size(), answer.header('etag'), answer.header('last-modified'));
  },

  get(key, range, ifMatch) {
    const headers = conditional(ifMatch);
    if (range) headers['x-ms-range'] = `bytes=${range.offset}-${range.offset + range.length - 1n}`;
    const answer = request('GET', { key, headers });
    expect(answer, [200, 206]);
    const info = infoOfAnswer(answer);
    // Azurite does not refuse such a range: it answers without bytes.
    if (range && range.offset >= info.size) {
      const why = `the range begins past the end of the object (${info.size} bytes)`;
      throw new Failure('range-not-satisfiable', why);
    }
    // A static function that consumes the response: `answer` is of no use afterwards.
    return [info, Response.intoBody(answer)];
  },

  head(key) {
    const answer = request('HEAD', { key });
    expect(answer, [200]);
    return infoOfAnswer(answer);
  },

  delete(key, ifMatch) {
    const headers = { ...conditional(ifMatch), 'x-ms-delete-snapshots': 'include' };
    const failure = failureOf(request('DELETE', { key, headers }), [202]);
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

/** Hands on the error of an import, which ComponentizeJS throws as `payload` of an `Error`. Reports
 * any unforeseen exception to the host: uncaught, it would be a trap, and its text lost. */
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
