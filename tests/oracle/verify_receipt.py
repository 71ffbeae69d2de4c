#!/usr/bin/env python3
"""An independent verifier of Huitong receipts, using only the Python standard library.

It follows docs/receipt-format.md section by section; the section numbers below are those of that page.

    verify_receipt.py RECEIPT TRUST               one line for each proven claim, or one line naming what failed
    verify_receipt.py --self-test RECEIPT TRUST   damage a valid receipt in many ways; none may remain valid

Exit codes: 0 valid, 3 invalid, 4 incomplete, 5 unreadable (section 9); 1 a failed self-test, 2 wrong usage.
The Ed25519 arithmetic is not constant-time: it must only ever be used to verify, never to sign.
"""

import base64
import datetime
import functools
import hashlib
import json
import re
import sys
import unicodedata


class Invalid(Exception):
    """Something that is there is false."""


class Incomplete(Exception):
    """Something is missing, and nothing is false."""


class Unreadable(Exception):
    """The file is not a receipt of this version (or the trust file is not one)."""


def check(condition, message):
    if not condition:
        raise Invalid(message)


def sha256(data):
    return hashlib.sha256(data).digest()


ZEROS = bytes(32)


# ---------------------------------------------------------------- Ed25519 (RFC 8032), strict checks (section 4)

PRIME = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
CURVE_D = -121665 * pow(121666, -1, PRIME) % PRIME
ROOT_OF_MINUS_ONE = pow(2, (PRIME - 1) // 4, PRIME)
IDENTITY = (0, 1, 1, 0)  # extended coordinates: X, Y, Z, T with x = X/Z, y = Y/Z, x*y = T/Z


def add(first, second):
    x1, y1, z1, t1 = first
    x2, y2, z2, t2 = second
    a = (y1 - x1) * (y2 - x2) % PRIME
    b = (y1 + x1) * (y2 + x2) % PRIME
    c = 2 * CURVE_D * t1 * t2 % PRIME
    d = 2 * z1 * z2 % PRIME
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % PRIME, g * h % PRIME, f * g % PRIME, e * h % PRIME


def decompress(encoded):
    """The point with this encoding, or None when the encoding is not canonical or no point has it."""
    number = int.from_bytes(encoded, "little")
    sign, y = number >> 255, number & (2**255 - 1)
    if len(encoded) != 32 or y >= PRIME:
        return None
    numerator, denominator = (y * y - 1) % PRIME, (CURVE_D * y * y + 1) % PRIME
    square = numerator * pow(denominator, -1, PRIME) % PRIME
    x = pow(square, (PRIME + 3) // 8, PRIME)
    if x * x % PRIME != square:
        x = x * ROOT_OF_MINUS_ONE % PRIME
    if x * x % PRIME != square or (x == 0 and sign):
        return None
    if x & 1 != sign:
        x = PRIME - x
    return x, y, 1, x * y % PRIME


def has_small_order(point):
    for _ in range(3):
        point = add(point, point)
    return point[0] == 0 and (point[1] - point[2]) % PRIME == 0


def window_table(point):
    """Row i holds the multiples 0 to 15 of point * 16^i, so that a multiplication is 64 additions."""
    table = []
    for _ in range(64):
        row = [IDENTITY]
        for _ in range(15):
            row.append(add(row[-1], point))
        table.append(row)
        point = add(row[-1], point)
    return table


BASE_TABLE = window_table(decompress(b"\x58" + b"\x66" * 31))


@functools.lru_cache(maxsize=64)
def negated_key_table(public_key):
    """The table of the negated public key, or None for a key that the strict check refuses."""
    point = decompress(public_key)
    if point is None or has_small_order(point):
        return None
    return window_table((PRIME - point[0], point[1], 1, PRIME - point[3]))


@functools.lru_cache(maxsize=256)
def signature_holds(public_key, message, signature):
    table = negated_key_table(public_key)
    commitment, scalar = signature[:32], int.from_bytes(signature[32:], "little")
    if table is None or len(signature) != 64 or scalar >= ORDER:
        return False
    challenge = int.from_bytes(hashlib.sha512(commitment + public_key + message).digest(), "little") % ORDER
    result = IDENTITY  # scalar * base - challenge * key, which must be the commitment R (no cofactor)
    for position in range(64):
        result = add(result, BASE_TABLE[position][scalar >> 4 * position & 15])
        result = add(result, table[position][challenge >> 4 * position & 15])
    inverse = pow(result[2], -1, PRIME)
    x, y = result[0] * inverse % PRIME, result[1] * inverse % PRIME
    return (y | (x & 1) << 255).to_bytes(32, "little") == commitment and not has_small_order(result)


# ---------------------------------------------------------------- section 2: strict CBOR

class NotStrict(Exception):
    """The bytes are not one strict CBOR item of the expected shape."""


def encode_head(major, number):
    if number < 24:
        return bytes([major << 5 | number])
    for power in range(4):
        if number < 1 << (8 << power):
            return bytes([major << 5 | 24 + power]) + number.to_bytes(1 << power, "big")
    raise NotStrict("an integer above 64 bits")


def encode(item):
    if type(item) is int:
        return encode_head(0, item) if item >= 0 else encode_head(1, -1 - item)
    if type(item) is bytes:
        return encode_head(2, len(item)) + item
    if type(item) is str:
        text = item.encode("utf-8")
        return encode_head(3, len(text)) + text
    if type(item) is list:
        return encode_head(4, len(item)) + b"".join(map(encode, item))
    return encode_head(5, len(item)) + b"".join(encode(key) + encode(item[key]) for key in sorted(item))


def decode_at(data, start, depth):
    """The item at this position and the position after it; depth is how many levels of nesting are left."""
    if start >= len(data):
        raise NotStrict("the data ends early")
    major, number, start = data[start] >> 5, data[start] & 31, start + 1
    if number > 27 or major > 5:
        raise NotStrict("an indefinite length, a tag, a float or another value that is not allowed")
    if number > 23:
        width = 1 << number - 24
        number, start = int.from_bytes(data[start:start + width], "big"), start + width
        if start > len(data) or number < (24 if width == 1 else 1 << 4 * width):
            raise NotStrict("an integer that is cut off or not the shortest")
    if major < 2:
        return (number if major == 0 else -1 - number), start
    if number > len(data) - start:
        raise NotStrict("a length beyond the end of the data")
    if major < 4:
        content, start = data[start:start + number], start + number
        if major == 2:
            return content, start
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError:
            raise NotStrict("text that is not UTF-8") from None
        if not unicodedata.is_normalized("NFC", text):
            raise NotStrict("text that is not in Unicode NFC")
        return text, start
    if depth == 0:
        raise NotStrict("nesting that is too deep")
    items, last_key = ([] if major == 4 else {}), -1
    for _ in range(number):
        if major == 5:
            key, start = decode_at(data, start, 0)
            if type(key) is not int or key <= last_key:
                raise NotStrict("a map key that is not an unsigned integer, is repeated or is out of order")
            last_key = key
            items[key], start = decode_at(data, start, depth - 1)
        else:
            item, start = decode_at(data, start, depth - 1)
            items.append(item)
    return items, start


def decode(data, depth, shape):
    item, end = decode_at(data, 0, depth)
    if end != len(data):
        raise NotStrict("bytes after the item")
    if encode(item) != data:
        raise NotStrict("another encoding than the deterministic one")
    if not shape(item):
        raise NotStrict("a missing, unknown or wrong field")
    return item


# Shapes: each is a function that says whether an item has the shape.

def text(item):
    return type(item) is str


def uint(item):
    return type(item) is int and item >= 0


def octets(item):
    return type(item) is bytes


def octets_of(length):
    return lambda item: type(item) is bytes and len(item) == length


def exactly(value):
    return lambda item: type(item) is type(value) and item == value


def list_of(shape, least=0, most=1 << 20):
    return lambda item: type(item) is list and least <= len(item) <= most and all(map(shape, item))


def tuple_of(*shapes):
    return lambda item: (type(item) is list and len(item) == len(shapes)
                         and all(shape(part) for shape, part in zip(shapes, item)))


def record(fields, optional=()):
    known = fields | dict(optional)
    return lambda item: (type(item) is dict and fields.keys() <= item.keys() <= known.keys()
                         and all(known[key](value) for key, value in item.items()))


digest = octets_of(32)


# ---------------------------------------------------------------- section 1: the trust file

def read_trust(data):
    def no_duplicates(pairs):
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a member is repeated")
        return dict(pairs)

    def matching(pattern):
        return lambda item: type(item) is str and re.fullmatch(pattern, item) is not None

    hexadecimal = matching("[0-9a-f]{64}")
    registrar = record({"node": matching(".{32}"), "entity": matching(".{18}"), "name": text,
                        "statement_key": hexadecimal, "log_origin": text, "log_key": hexadecimal,
                        "root_certificate_sha256": hexadecimal})
    shape = record({"format": exactly("huitong-trust/1"), "space": hexadecimal, "registrars": list_of(registrar)})
    try:
        trust = json.loads(data.decode("utf-8"), object_pairs_hook=no_duplicates)
    except (ValueError, RecursionError) as problem:
        raise Unreadable(f"the trust file: {problem}") from None
    if not shape(trust):
        raise Unreadable("the trust file is not of the form huitong-trust/1")
    keys = {entry["node"]: bytes.fromhex(entry["statement_key"]) for entry in trust["registrars"]}
    if len(keys) != len(trust["registrars"]):
        raise Unreadable("the trust file names a registrar twice")
    return bytes.fromhex(trust["space"]), keys


# ---------------------------------------------------------------- section 3: the receipt

LOG = record({1: text, 2: list_of(tuple_of(uint, list_of(digest)))})
RECEIPT = record({1: exactly("huitong-receipt/1"), 2: octets, 3: list_of(octets), 4: list_of(LOG, most=2),
                  5: list_of(octets)})


def read_receipt(data):
    if len(data) > 1 << 20:
        raise Unreadable("the file is larger than 1 MiB")
    try:
        return decode(data, 8, RECEIPT)
    except NotStrict as problem:
        raise Unreadable(f"the file is not a receipt of this version: {problem}") from None


# ---------------------------------------------------------------- section 5: kinds and details

def ranges(item):
    return (list_of(tuple_of(uint, uint), most=1024)(item) and all(start < end for start, end in item)
            and all(before[1] < after[0] for before, after in zip(item, item[1:])))


def cumulative_ranges(item):
    return ranges(item) and len(item) <= 1 and all(start == 0 for start, _ in item)


def file_name(item):
    return (text(item) and 0 < len(item.encode()) <= 255 and item not in (".", "..") and not set(item) & set("/\\")
            and not any(unicodedata.category(character) == "Cc" for character in item))


def groups_of(offer):
    """How many groups the offered content has."""
    return offer[19][1] if 19 in offer else -(-offer[3] // 2**20)


def offer(item):
    fields = {1: text, 2: digest, 3: uint, 4: exactly(20), 5: exactly(0), 6: uint, 15: digest, 17: file_name,
              18: list_of(digest)}
    if type(item) is dict and 19 in item:
        fields[19] = tuple_of(uint, uint, uint)
    if not record(fields)(item):
        return False
    if 19 in item:
        files, groups, manifest = item[19]
        if not (1 <= files <= 100_000 and manifest <= 16 << 20 and -(-item[3] // 2**20) <= groups <= item[3] // 2**20 + files):
            return False
    return groups_of(item) <= 2**21


def ack(item):
    fields = {1: exactly(1), 2: digest, 3: cumulative_ranges, 5: uint, 6: lambda status: uint(status) and status < 3}
    if type(item) is dict and item.get(6) == 2:
        fields[7] = text
    return record(fields)(item)


CREDENTIAL, ASSET, AGREEMENT, VERIFICATION, FINALISATION, USAGE, OFFER, ACCEPT, ACK, FINAL = \
    17, 21, 27, 28, 29, 9, 1, 2, 3, 5
SHARED_ORDER = [AGREEMENT, VERIFICATION, FINALISATION, USAGE, OFFER, ACCEPT, ACK, FINAL]
NAMES = {CREDENTIAL: "CREDENTIAL", ASSET: "ASSET CERTIFICATE", AGREEMENT: "AGREEMENT", VERIFICATION: "VERIFICATION",
         FINALISATION: "FINALISATION", USAGE: "USAGE", OFFER: "OFFER", ACCEPT: "ACCEPT", ACK: "ACK", FINAL: "FINAL"}
SIGNED_AGREEMENT = record({1: digest, 2: text})
DETAILS = {
    CREDENTIAL: record({1: text, 2: text, 3: text, 4: text, 5: digest, 6: digest, 7: digest, 8: text,
                        9: list_of(text), 10: uint, 11: uint, 12: digest}),
    ASSET: record({1: text, 2: digest, 3: exactly("product"), 4: text, 5: digest, 6: uint, 7: list_of(text),
                   8: lambda version: uint(version) and version > 0}),
    AGREEMENT: SIGNED_AGREEMENT,
    VERIFICATION: SIGNED_AGREEMENT,
    FINALISATION: record({}),
    USAGE: record({1: octets_of(16), 2: text, 3: text, 4: exactly(1), 5: uint, 6: digest}),
    OFFER: offer,
    ACCEPT: record({1: ranges, 2: digest}),
    ACK: ack,
    FINAL: record({1: digest, 2: exactly("delivered")}),
}


# ---------------------------------------------------------------- section 4: statements

OUTER = tuple_of(octets, exactly({}), octets, octets_of(64))
HEADER = record({1: exactly(-19), 4: digest, 15: record({1: text, 2: text}),
                 16: exactly("application/huitong-statement+cbor")})
BODY = record({1: exactly(1), 2: uint, 3: exactly(1), 4: text, 5: text, 6: octets_of(16), 7: digest, 8: uint,
               9: digest, 10: digest, 11: uint, 12: octets_of(16), 13: tuple_of(text, uint, digest),
               14: lambda item: type(item) is dict})


class Statement:
    """One verified statement; key_of gives the key of an issuer (or raises Invalid)."""

    def __init__(self, data, place, space, key_of):
        try:
            check(len(data) <= 16384, f"{place}: larger than 16,384 bytes")
            check(data[:1] == b"\xd2", f"{place}: not tagged as COSE_Sign1")
            protected, _, payload, signature = decode(data[1:], 8, OUTER)
            header = decode(protected, 8, HEADER)  # read before the signature only to learn whose key to use
            key = key_of(header[15][1], place)
            external = b"huitong/statement/v1\x00" + space
            signed = encode(["Signature1", protected, external, payload])
            check(signature_holds(key, signed, signature), f"{place}: the signature does not verify")
            check(header[4] == sha256(b"\x01" + key), f"{place}: the key id is not that of the issuer's key")
            body = decode(payload, 6, BODY)
        except NotStrict as problem:
            raise Invalid(f"{place}: {problem}") from None
        self.data, self.digest, self.body, self.detail = data, sha256(signed), body, body[14]
        self.kind, self.issuer, self.audience, self.subject = body[2], body[4], body[5], body[6]
        self.agreement_hash, self.answers, self.time = body[7], body[10], body[11]
        check(header[15] == {1: self.issuer, 2: self.subject.hex()}, f"{place}: header and body name different things")
        check(self.kind in DETAILS, f"{place}: kind {self.kind} does not occur in a receipt")
        check(DETAILS[self.kind](self.detail), f"{place}: the detail is not that of {NAMES[self.kind]}")
        check(body[8] > 0 or body[9] == ZEROS, f"{place}: the first of its channel names a previous statement")


# ---------------------------------------------------------------- section 6: the agreement

PARTY = record({1: text, 2: text, 3: text})
AGREEMENT_DOCUMENT = record({
    1: exactly("huitong/agreement/v1"), 2: lambda item: text(item) and len(item) == 47, 3: text, 4: text, 5: text,
    6: PARTY, 7: PARTY, 8: octets, 9: digest, 10: uint, 11: uint, 12: exactly(0), 13: text, 14: uint,
    15: octets_of(16), 16: digest, 17: exactly("01"), 18: lambda item: uint(item) and item < 2},
    {19: lambda item: uint(item) and item > 0})


def read_agreement(data):
    try:
        agreement = decode(data, 8, AGREEMENT_DOCUMENT)
    except NotStrict as problem:
        raise Invalid(f"agreement document: {problem}") from None
    check((19 in agreement) == (agreement[18] == 1), "agreement document: a version stands in it with coverage 1 only")
    return agreement


# ---------------------------------------------------------------- section 7: the chain

def registrar_statement(data, place, kind, space, registrar_keys):
    """A statement that a registrar of the trust file has signed."""
    def registrar_key(issuer, place):
        check(issuer in registrar_keys, f"{place}: its issuer is not a registrar of the trust file")
        return registrar_keys[issuer]

    statement = Statement(data, place, space, registrar_key)
    check(statement.kind == kind, f"{place}: a statement of another kind stands in its place")
    if kind == CREDENTIAL:
        check(statement.audience == statement.detail[1], f"{place}: its audience is not the node that it is about")
    return statement


def verify_chain(receipt, space, registrar_keys):
    """Check everything about statements; give the agreement, the credentials, the shared statements, what is missing."""
    agreement = read_agreement(receipt[2])
    places = ["CREDENTIAL of the provider", "CREDENTIAL of the consumer", "ASSET CERTIFICATE"]
    if len(receipt[3]) < len(places):
        raise Incomplete("missing: " + ", ".join(places[len(receipt[3]):]))
    first = [registrar_statement(data, place, kind, space, registrar_keys)
             for data, place, kind in zip(receipt[3], places, [CREDENTIAL, CREDENTIAL, ASSET])]
    credentials, asset = first[:2], first[2]
    for credential, place, party in zip(credentials, places, [agreement[6], agreement[7]]):
        check(party == {key: credential.detail[key] for key in (1, 2, 3)}, f"{place}: not the agreement's party")
    for credential, place, role in zip(credentials, places, ["provider", "consumer"]):
        check(role in credential.detail[9], f"{place}: it does not name the role {role}")
    check(agreement[16] == space, "agreement document: its space is not that of the trust file")
    provider, consumer = agreement[6][1], agreement[7][1]
    check(provider != consumer, "agreement document: both parties are the same node")
    credential_of = {provider: credentials[0].detail, consumer: credentials[1].detail}

    def party_key(issuer, place):
        check(issuer in credential_of, f"{place}: its issuer is not a party of the agreement")
        return credential_of[issuer][6]

    shared, found, rank = [], {}, -1
    for number, data in enumerate(receipt[3][3:], 4):
        statement = Statement(data, f"statement {number}", space, party_key)
        check(statement.kind in SHARED_ORDER, f"statement {number}: {NAMES[statement.kind]} must not stand here")
        place, previous_rank, rank = NAMES[statement.kind], rank, SHARED_ORDER.index(statement.kind)
        check(rank > previous_rank or rank == previous_rank and statement.kind == USAGE,
              f"{place}: repeated or out of order")
        sender, receiver = (consumer, provider) if statement.kind in (VERIFICATION, ACCEPT, ACK) else (provider, consumer)
        check(statement.issuer == sender and statement.audience == receiver, f"{place}: from or to the wrong party")
        validity = credential_of[statement.issuer]
        check(validity[10] <= statement.time <= validity[11], f"{place}: its time is outside its issuer's credential")
        shared.append(statement)
        found[statement.kind] = statement
    missing = [NAMES[kind] for kind in SHARED_ORDER if kind != USAGE and kind not in found]

    for kind in (AGREEMENT, VERIFICATION):
        if kind in found:
            check(found[kind].detail == {1: sha256(receipt[2]), 2: agreement[2]},
                  f"{NAMES[kind]}: another agreement document")
            check(found[kind].subject == agreement[15], f"{NAMES[kind]}: its subject is not the negotiation")
            check(found[kind].agreement_hash == ZEROS, f"{NAMES[kind]}: it carries an agreement hash too early")
    for kind, answered in [(VERIFICATION, AGREEMENT), (FINALISATION, VERIFICATION), (OFFER, FINALISATION),
                           (ACCEPT, OFFER), (ACK, ACCEPT), (FINAL, ACK)]:
        if kind in found and answered in found:
            check(found[kind].answers == found[answered].digest, f"{NAMES[kind]}: it does not answer {NAMES[answered]}")
    if FINALISATION in found:
        check(found[FINALISATION].subject == agreement[15], "FINALISATION: its subject is not the negotiation")
    if AGREEMENT in found and VERIFICATION in found:
        agreement_hash = sha256(encode([receipt[2], found[AGREEMENT].data, found[VERIFICATION].data]))
        for statement in shared[2:]:
            check(statement.agreement_hash == agreement_hash, f"{NAMES[statement.kind]}: another agreement hash")
    check((asset.detail[1], asset.detail[4]) == (agreement[4], agreement[6][2]),
          "ASSET CERTIFICATE: product or holder is not the agreement's")
    root, size = asset.detail[5], asset.detail[6]
    if agreement[18] == 0:
        check((root, size) == (agreement[9], agreement[10]), "ASSET CERTIFICATE: root or size is not the agreement's")
    else:
        check(asset.detail[8] >= agreement[19], "ASSET CERTIFICATE: an older version than was agreed on")
    transfer = [statement for statement in shared if statement.kind in (USAGE, OFFER, ACCEPT, ACK, FINAL)]
    check(len({statement.subject for statement in transfer}) <= 1, "the transfer's statements have different subjects")
    if OFFER in found:
        offer = found[OFFER].detail
        check((offer[1], offer[2], offer[3], offer[6]) == (agreement[4], root, size, agreement[11]),
              "OFFER: product or window is not the agreement's, or root or size is not the certificate's")
        check(offer[15] == sha256(agreement[8]), "OFFER: its policy is not the agreement's")
        usages = [statement.digest for statement in shared if statement.kind == USAGE]
        if len(usages) < len(offer[18]):
            missing.append("a USAGE that the offer names")
        else:
            check(usages == offer[18], "USAGE: not the statements that the offer names")
    if ACK in found:
        acknowledgement = found[ACK].detail
        check(acknowledgement[2] == root, "ACK: another root")
        if acknowledgement[6] != 1:
            missing.append("a complete ACK (it is partial)")
        elif OFFER in found:
            groups = groups_of(found[OFFER].detail)
            check(acknowledgement[3] == ([[0, groups]] if groups else []), "ACK: it does not cover all groups")
            check(acknowledgement[5] == size, "ACK: it does not cover all bytes")
    if FINAL in found:
        check(found[FINAL].detail[1] == root, "FINAL: another root")
    return agreement, credentials, shared, found, missing


# ---------------------------------------------------------------- section 8: the ledgers

def strict_base64(encoded):
    try:
        decoded = base64.b64decode(encoded, validate=True)
    except ValueError:
        return None
    return decoded if base64.b64encode(decoded).decode() == encoded else None


class Witness:
    """A node that may cosign, from its CREDENTIAL's detail."""

    def __init__(self, detail, is_party):
        self.node, self.organisation, self.key, self.is_party = detail[1], detail[3], detail[12], is_party
        self.valid_from, self.valid_to = detail[10], detail[11]
        self.name = self.node.lower() + "/huitong-witness/1"
        self.key_id = sha256(self.name.encode() + b"\x0a\x04" + self.key)[:4]


def read_witnesses(receipt, credentials, space, registrar_keys):
    """The parties and the nodes of key 5."""
    witnesses, before = [Witness(credential.detail, True) for credential in credentials], ""
    parties = [witness.node for witness in witnesses]
    for number, data in enumerate(receipt[5], 1):
        place = f"witness {number}"
        witness = Witness(registrar_statement(data, place, CREDENTIAL, space, registrar_keys).detail, False)
        check(witness.node not in parties, f"{place}: it is a party")
        check(witness.node.encode() > before.encode(), f"{place}: not in the order of node ids")
        before = witness.node
        witnesses.append(witness)
    check(len({witness.key for witness in witnesses}) == len(witnesses), "two witnesses have one key")
    return witnesses


LATEST_SECOND = 253_402_207_200


def verify_cosignature(line, signed, witnesses, owner_node, place):
    """Give the witness of a cosignature line and its time in milliseconds."""
    parts = line.split(" ")
    check(len(parts) == 3 and parts[0] == "\u2014", f"{place}: a line that is no signature")
    blob = strict_base64(parts[2])
    check(blob is not None and len(blob) == 76, f"{place}: a cosignature is not 76 bytes in base64")
    known = [witness for witness in witnesses if (witness.name, witness.key_id) == (parts[1], blob[:4])]
    check(known, f"{place}: a signature line by nobody whose credential is in the receipt")
    witness, seconds = known[0], int.from_bytes(blob[4:12], "big")
    check(witness.node != owner_node, f"{place}: cosigned by its own node")
    message = b"cosignature/v1\ntime " + str(seconds).encode() + b"\n" + signed
    check(signature_holds(witness.key, message, blob[12:]), f"{place}: the cosignature of {witness.node} does not verify")
    check(1 <= seconds <= LATEST_SECOND and witness.valid_from <= seconds * 1000 <= witness.valid_to,
          f"{place}: cosigned outside the credential of {witness.node}")
    return witness, seconds * 1000


def verify_ledger(log, credential, owner, shared, witnesses):
    """Check one ledger; give the checkpoint's size, the cosignatures, and what is missing."""
    place, origin, key = f"the {owner}'s ledger", credential.detail[8], credential.detail[7]
    check(len(log[1].encode()) <= 98_304, f"{place}: the checkpoint is too long")
    lines = log[1].split("\n")
    check(6 <= len(lines) <= 21 and lines[3] == "" and lines[-1] == "" and lines[0] == origin
          and lines[4].startswith(f"\u2014 {origin} "), f"{place}: the checkpoint does not have its form and origin")
    check(re.fullmatch("0|[1-9][0-9]{0,19}", lines[1]) and int(lines[1]) < 2**64, f"{place}: the size is not a number")
    size, root, signature = int(lines[1]), strict_base64(lines[2]), strict_base64(lines[4][len(origin) + 3:])
    check(root is not None and len(root) == 32, f"{place}: the root is not 32 bytes in base64")
    check(signature is not None and len(signature) == 68, f"{place}: the signature is not 68 bytes in base64")
    key_id = sha256(origin.encode() + b"\x0a\x01" + key)[:4]
    check(signature[:4] == key_id, f"{place}: another key id")
    signed = "".join(line + "\n" for line in lines[:3]).encode()
    check(signature_holds(key, signed, signature[4:]), f"{place}: the checkpoint's signature does not verify")
    cosignatures = [verify_cosignature(line, signed, witnesses, credential.detail[1], place) for line in lines[5:-1]]
    names = [witness.name.encode() for witness, _ in cosignatures]
    check(names == sorted(set(names)), f"{place}: cosignatures are repeated or out of order")
    check(len(log[2]) <= len(shared), f"{place}: more proofs than statements")
    for statement, (index, path) in zip(shared, log[2]):
        check(len(path) <= 63 and path_holds(statement.data, index, size, path, root),
              f"{place}: the proof for {NAMES[statement.kind]} does not hold")
    return size, cosignatures, [f"a proof in {place}"] if len(log[2]) < len(shared) else []


def path_holds(entry, index, size, path, root):
    if index >= size:
        return False
    first, second, result = index, size - 1, sha256(b"\x00" + entry)
    for sibling in path:
        if second == 0:
            return False
        if first & 1 or first == second:
            result = sha256(b"\x01" + sibling + result)
            while first & 1 == 0 and first != 0:
                first, second = first >> 1, second >> 1
        else:
            result = sha256(b"\x01" + result + sibling)
        first, second = first >> 1, second >> 1
    return second == 0 and result == root


# ---------------------------------------------------------------- sections 9 and 10: the outcome and what is proven

def printable(value):
    return "".join(character if character.isprintable() else "\ufffd" for character in value)


def moment(milliseconds):
    try:
        start = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
        return (start + datetime.timedelta(milliseconds=milliseconds)).isoformat(timespec="milliseconds")
    except OverflowError:
        return f"{milliseconds} ms"


def verify(data, space, registrar_keys):
    """Give the proven claims, or raise Invalid, Incomplete or Unreadable."""
    receipt = read_receipt(data)
    agreement, credentials, shared, found, missing = verify_chain(receipt, space, registrar_keys)
    witnesses = read_witnesses(receipt, credentials, space, registrar_keys)
    sizes, cosigned = [], []
    owners = ["provider", "consumer"]
    missing += [f"the {owner}'s ledger" for owner in owners[len(receipt[4]):]]
    for log, credential, owner in zip(receipt[4], credentials, owners):
        size, cosignatures, absent = verify_ledger(log, credential, owner, shared, witnesses)
        sizes.append(size)
        cosigned.append(cosignatures)
        missing += absent
    used = {witness.node for cosignatures in cosigned for witness, _ in cosignatures}
    if len(cosigned) == len(owners):
        check(all(witness.is_party or witness.node in used for witness in witnesses), "a witness has cosigned neither ledger")
    if missing:
        raise Incomplete("missing: " + ", ".join(missing))
    claims = [f"{role} {party[3]}, entity {party[2]}, node {party[1]}: certified by registrar {credential.issuer}"
              for role, party, credential in zip(["provider", "consumer"], [agreement[6], agreement[7]], credentials)]
    usages = len(found[OFFER].detail[18])
    told = [f"the {owner}'s ledger at size {size}: cosigned by {witness.organisation}, node {witness.node}, {moment(time)}"
            for owner, size, cosignatures in zip(owners, sizes, cosigned) for witness, time in cosignatures]
    # Without a policy one witness that is no party is enough (section 9).
    enough = [[time for witness, time in cosignatures if not witness.is_party] for cosignatures in cosigned]
    bracket = f"; all of it existed {moment(min(map(min, filter(None, enough))))}" if any(enough) else ""
    finality = ("final" if all(enough) else "provisional") + bracket
    return [printable(claim) for claim in claims + [
        f"product {agreement[4]} ({agreement[5]}): registered for the provider, {found[OFFER].detail[3]} bytes, "
        f"BLAKE3 {found[OFFER].detail[2].hex()}",
        f"agreement {agreement[2]} ({agreement[3]}): signed by both, finalised {moment(found[FINALISATION].time)}",
        f"use of the policy: {usages} counted by the provider",
        f"offer: made by the provider {moment(found[OFFER].time)}, of these bytes under the agreement's policy",
        f"acknowledgement: the consumer verified and holds {found[ACK].detail[5]} bytes, {moment(found[ACK].time)}",
        f"transfer {found[FINAL].subject.hex()}: closed by the provider {moment(found[FINAL].time)}",
        f"ledgers: all {len(shared)} shared statements are in the provider's (size {sizes[0]}) "
        f"and the consumer's (size {sizes[1]})"] + told + [f"finality: {finality}"]]


OUTCOMES = {Invalid: ("invalid", 3), Incomplete: ("incomplete", 4), Unreadable: ("unreadable", 5)}


def self_test(data, space, registrar_keys):
    verify(data, space, registrar_keys)
    counts = {"valid": 0, "invalid": 0, "incomplete": 0, "unreadable": 0}

    def attempt(damaged, what):
        try:
            verify(damaged, space, registrar_keys)
        except tuple(OUTCOMES) as problem:
            counts[OUTCOMES[type(problem)][0]] += 1
        else:
            counts["valid"] += 1
            print(f"self-test: still valid after {what}")

    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << position % 8
        attempt(bytes(damaged), f"a flipped bit in byte {position}")
        attempt(data[:position], f"cutting at byte {position}")
    print(f"self-test: {2 * len(data)} damaged receipts: " + ", ".join(f"{n} {name}" for name, n in counts.items()))
    return 1 if counts["valid"] else 0


def main(arguments):
    testing = arguments[:1] == ["--self-test"]
    if len(arguments) != (3 if testing else 2):
        print("usage: verify_receipt.py [--self-test] RECEIPT TRUST", file=sys.stderr)
        return 2
    try:
        contents = []
        for path in arguments[-2:]:
            try:
                with open(path, "rb") as file:
                    contents.append(file.read((1 << 20) + 1))
            except OSError as problem:
                raise Unreadable(f"{path}: {problem.strerror}") from None
        space, registrar_keys = read_trust(contents[1])
        if testing:
            return self_test(contents[0], space, registrar_keys)
        claims = verify(contents[0], space, registrar_keys)
    except tuple(OUTCOMES) as problem:
        outcome, code = OUTCOMES[type(problem)]
        print(printable(f"{outcome}: {problem}"))
        return code
    print("\n".join(claims + ["valid"]))
    return 0


if __name__ == "__main__":
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8", errors="replace")
    sys.exit(main(sys.argv[1:]))
