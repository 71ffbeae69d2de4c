//! Messages to other nodes, queued by the transaction that is their reason.
//!
//! [`Tx::send`] queues. A worker reads [`pending`], delivers, and in a transaction says what came of it:
//! [`settle`] if the message arrived, [`postpone`] to try again later, [`bury`] to stop trying. A message may
//! arrive more than once: a node can end between delivery and `settle`. Receivers tell by its id, which this node
//! never uses again.
//!
//! Settling, postponing and burying a message that is no longer pending does nothing.

use crate::record::Cursor;
use crate::table::{Read, Row, Table};
use crate::{StoreError, Tx};

/// A message to another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// The node it goes to; 1 to 1,024 bytes, no zero byte.
    pub destination: String,
    /// Which handler it is for; at most 65,535 bytes.
    pub topic: String,
    /// The bytes to deliver.
    pub payload: Vec<u8>,
}

/// A queued message and how its delivery stands. Times are in milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// Counts up from 1 on this node.
    pub id: u64,
    /// The node it goes to.
    pub destination: String,
    /// Which handler it is for.
    pub topic: String,
    /// The bytes to deliver.
    pub payload: Vec<u8>,
    /// When the transaction that sent it ran.
    pub created: u64,
    /// How many deliveries failed.
    pub attempts: u32,
    /// When to try next; 0 if it was never tried.
    pub next_attempt: u64,
    /// Why the last delivery failed; empty if none did.
    pub last_error: String,
    /// Whether it was given up. [`pending`] returns none of these, [`dead`] returns only these.
    pub dead: bool,
}

/// `id u64` to the message, which never changes.
const MESSAGE: Table = Table::own("store.outbox.message");
/// `destination 0x00 | id u64` to its delivery.
const QUEUE: Table = Table::own("store.outbox.queue");
/// `id u64` to its delivery.
const DEAD: Table = Table::own("store.outbox.dead");
/// `outbox` to the last id used, `compactions` to how often the store was compacted; both u64.
pub(crate) const COUNTER: Table = Table::own("store.counter");

const COUNTER_KEY: &[u8] = b"outbox";
const MESSAGE_VERSION: u8 = 1;
const DELIVERY_VERSION: u8 = 1;
const MAX_DESTINATION_BYTES: usize = 1024;
/// An error's text is for a person; a peer must not fill the journal with it.
const MAX_ERROR_BYTES: usize = 1024;
const PAGE: usize = 256;

/// The first `limit` messages still to be delivered, to one destination or to all, in the order they were sent.
/// Whether one is due is for the caller to compare: [`Pending::next_attempt`].
pub fn pending(
    reader: &(impl Read + ?Sized),
    destination: Option<&str>,
    limit: usize,
) -> Result<Vec<Pending>, StoreError> {
    match destination {
        Some(destination) => pending_to(reader, destination, limit),
        None => pending_to_all(reader, limit),
    }
}

/// The first `limit` messages that were given up, in the order they were sent, from the one with an id greater than
/// `after`; 0 for the first page.
pub fn dead(reader: &(impl Read + ?Sized), after: u64, limit: usize) -> Result<Vec<Pending>, StoreError> {
    let rows = reader.scan(&DEAD, &[], Some(&after.to_be_bytes()), limit)?;
    let mut found = Vec::new();
    for row in rows {
        let id = decode_id(DEAD, &row)?;
        let delivery = Delivery::decode(DEAD, &row.value)?;
        found.push(join(id, message(reader, id)?, delivery, Fate::Dead));
    }
    Ok(found)
}

/// One message, pending or dead.
pub fn find(reader: &(impl Read + ?Sized), id: u64) -> Result<Option<Pending>, StoreError> {
    let Some(message) = reader.get(&MESSAGE, &id.to_be_bytes())? else { return Ok(None) };
    let message = Message::decode(&message)?;
    if let Some(delivery) = reader.get(&DEAD, &id.to_be_bytes())? {
        return Ok(Some(join(id, message, Delivery::decode(DEAD, &delivery)?, Fate::Dead)));
    }
    let delivery = delivery(reader, &message.destination, id)?;
    Ok(delivery.map(|delivery| join(id, message, delivery, Fate::Pending)))
}

/// The destinations that have messages still to be delivered, in byte order.
pub fn destinations(reader: &(impl Read + ?Sized)) -> Result<Vec<String>, StoreError> {
    let mut found = Vec::new();
    let mut after: Option<Vec<u8>> = None;
    while let Some(row) = reader.scan(&QUEUE, &[], after.as_deref(), 1)?.into_iter().next() {
        let (destination, _) = split_queue_key(&row.key)?;
        after = Some(queue_key(&destination, u64::MAX));
        found.push(destination);
    }
    Ok(found)
}

/// The message arrived: forget it. A dead message is forgotten too.
pub fn settle(tx: &mut Tx<'_>, id: u64) -> Result<(), StoreError> {
    let Some(message) = find(tx, id)? else { return Ok(()) };
    tx.delete(&MESSAGE, &id.to_be_bytes())?;
    if message.dead {
        tx.delete(&DEAD, &id.to_be_bytes())
    } else {
        tx.delete(&QUEUE, &queue_key(&message.destination, id))
    }
}

/// Delivery failed with `error` (its first 1,024 bytes are kept): try again at `next_attempt`.
pub fn postpone(tx: &mut Tx<'_>, id: u64, next_attempt: u64, error: &str) -> Result<(), StoreError> {
    let Some(message) = find(tx, id)?.filter(|message| !message.dead) else { return Ok(()) };
    let delivery = Delivery::failed(message.attempts, next_attempt, error);
    tx.put(&QUEUE, &queue_key(&message.destination, id), &delivery.encode())
}

/// Delivery failed with `error` for good: keep the message for the operator, no longer try.
pub fn bury(tx: &mut Tx<'_>, id: u64, error: &str) -> Result<(), StoreError> {
    let Some(message) = find(tx, id)?.filter(|message| !message.dead) else { return Ok(()) };
    let delivery = Delivery::failed(message.attempts, message.next_attempt, error);
    tx.delete(&QUEUE, &queue_key(&message.destination, id))?;
    tx.put(&DEAD, &id.to_be_bytes(), &delivery.encode())
}

/// The operator wants a dead message tried again, at once.
pub fn revive(tx: &mut Tx<'_>, id: u64) -> Result<(), StoreError> {
    let Some(message) = find(tx, id)?.filter(|message| message.dead) else { return Ok(()) };
    let delivery =
        Delivery { attempts: message.attempts, next_attempt: 0, last_error: message.last_error.clone() };
    tx.delete(&DEAD, &id.to_be_bytes())?;
    tx.put(&QUEUE, &queue_key(&message.destination, id), &delivery.encode())
}

/// What [`Tx::send`] does.
pub(crate) fn enqueue(tx: &mut Tx<'_>, outgoing: &Outgoing) -> Result<u64, StoreError> {
    let refuse = |field, why| Err(StoreError::Message { field, why });
    if outgoing.destination.is_empty() {
        return refuse("destination", "is empty");
    }
    if outgoing.destination.len() > MAX_DESTINATION_BYTES {
        return refuse("destination", "is longer than 1,024 bytes");
    }
    if outgoing.destination.contains('\0') {
        return refuse("destination", "contains a zero byte");
    }
    if outgoing.topic.len() > usize::from(u16::MAX) {
        return refuse("topic", "is longer than 65,535 bytes");
    }
    let id = next_id(tx)?;
    let message = Message {
        created: tx.time(),
        destination: outgoing.destination.clone(),
        topic: outgoing.topic.clone(),
        payload: outgoing.payload.clone(),
    };
    tx.put(&COUNTER, COUNTER_KEY, &id.to_be_bytes())?;
    tx.put(&MESSAGE, &id.to_be_bytes(), &message.encode())?;
    tx.put(&QUEUE, &queue_key(&outgoing.destination, id), &Delivery::default().encode())?;
    Ok(id)
}

/// `version u8 = 1 | created u64 | destination length u16 | destination | topic length u16 | topic | payload`
struct Message {
    created: u64,
    destination: String,
    topic: String,
    payload: Vec<u8>,
}

/// `version u8 = 1 | attempts u32 | next attempt u64 | last error`
#[derive(Default)]
struct Delivery {
    attempts: u32,
    next_attempt: u64,
    last_error: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Pending,
    Dead,
}

impl Message {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![MESSAGE_VERSION];
        bytes.extend_from_slice(&self.created.to_be_bytes());
        for text in [&self.destination, &self.topic] {
            bytes.extend_from_slice(&u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
        bytes.extend_from_slice(&self.payload);
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        Self::try_decode(bytes).ok_or(StoreError::Row { table: MESSAGE.name(), why: "it is not a message" })
    }

    fn try_decode(bytes: &[u8]) -> Option<Self> {
        let mut cursor = Cursor::new(bytes);
        if cursor.u8()? != MESSAGE_VERSION {
            return None;
        }
        let created = cursor.u64()?;
        let destination = text(&mut cursor)?;
        let topic = text(&mut cursor)?;
        Some(Self { created, destination, topic, payload: cursor.rest().to_vec() })
    }
}

impl Delivery {
    fn failed(attempts: u32, next_attempt: u64, error: &str) -> Self {
        let kept = error.get(..error.floor_char_boundary(MAX_ERROR_BYTES)).unwrap_or_default();
        Self { attempts: attempts.saturating_add(1), next_attempt, last_error: kept.to_owned() }
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![DELIVERY_VERSION];
        bytes.extend_from_slice(&self.attempts.to_be_bytes());
        bytes.extend_from_slice(&self.next_attempt.to_be_bytes());
        bytes.extend_from_slice(self.last_error.as_bytes());
        bytes
    }

    fn decode(table: Table, bytes: &[u8]) -> Result<Self, StoreError> {
        Self::try_decode(bytes).ok_or(StoreError::Row { table: table.name(), why: "it is not a delivery" })
    }

    fn try_decode(bytes: &[u8]) -> Option<Self> {
        let mut cursor = Cursor::new(bytes);
        if cursor.u8()? != DELIVERY_VERSION {
            return None;
        }
        let attempts = cursor.u32()?;
        let next_attempt = cursor.u64()?;
        let last_error = String::from_utf8(cursor.rest().to_vec()).ok()?;
        Some(Self { attempts, next_attempt, last_error })
    }
}

fn pending_to(
    reader: &(impl Read + ?Sized),
    destination: &str,
    limit: usize,
) -> Result<Vec<Pending>, StoreError> {
    if destination.contains('\0') {
        return Ok(Vec::new());
    }
    let mut prefix = destination.as_bytes().to_vec();
    prefix.push(0);
    let mut found = Vec::new();
    for row in reader.scan(&QUEUE, &prefix, None, limit)? {
        let (_, id) = split_queue_key(&row.key)?;
        // In a view another commit may have settled it meanwhile.
        if let Some(message) = reader.get(&MESSAGE, &id.to_be_bytes())? {
            let delivery = Delivery::decode(QUEUE, &row.value)?;
            found.push(join(id, Message::decode(&message)?, delivery, Fate::Pending));
        }
    }
    Ok(found)
}

fn pending_to_all(reader: &(impl Read + ?Sized), limit: usize) -> Result<Vec<Pending>, StoreError> {
    let mut found = Vec::new();
    let mut after: Option<Vec<u8>> = None;
    // Dead messages lie among the others, so a page of rows may give fewer messages.
    while found.len() < limit {
        let rows = reader.scan(&MESSAGE, &[], after.as_deref(), limit.min(PAGE))?;
        let Some(last) = rows.last() else { break };
        after = Some(last.key.clone());
        for row in rows {
            let id = decode_id(MESSAGE, &row)?;
            let message = Message::decode(&row.value)?;
            let delivery = delivery(reader, &message.destination, id)?;
            if let Some(delivery) = delivery.filter(|_| found.len() < limit) {
                found.push(join(id, message, delivery, Fate::Pending));
            }
        }
    }
    Ok(found)
}

fn message(reader: &(impl Read + ?Sized), id: u64) -> Result<Message, StoreError> {
    let missing = StoreError::Row { table: MESSAGE.name(), why: "it is missing" };
    Message::decode(&reader.get(&MESSAGE, &id.to_be_bytes())?.ok_or(missing)?)
}

fn delivery(
    reader: &(impl Read + ?Sized),
    destination: &str,
    id: u64,
) -> Result<Option<Delivery>, StoreError> {
    let delivery = reader.get(&QUEUE, &queue_key(destination, id))?;
    delivery.map(|delivery| Delivery::decode(QUEUE, &delivery)).transpose()
}

fn next_id(reader: &impl Read) -> Result<u64, StoreError> {
    let broken = |why| StoreError::Row { table: COUNTER.name(), why };
    let last = match reader.get(&COUNTER, COUNTER_KEY)? {
        None => 0,
        Some(bytes) => Cursor::new(&bytes).u64().ok_or_else(|| broken("it is not a number"))?,
    };
    last.checked_add(1).ok_or_else(|| broken("it is exhausted"))
}

fn queue_key(destination: &str, id: u64) -> Vec<u8> {
    let mut key = destination.as_bytes().to_vec();
    key.push(0);
    key.extend_from_slice(&id.to_be_bytes());
    key
}

fn split_queue_key(key: &[u8]) -> Result<(String, u64), StoreError> {
    let split = || {
        let (named, id) = key.split_last_chunk::<8>()?;
        let (_zero, destination) = named.split_last()?;
        Some((String::from_utf8(destination.to_vec()).ok()?, u64::from_be_bytes(*id)))
    };
    split().ok_or(StoreError::Row { table: QUEUE.name(), why: "its key is not a destination and an id" })
}

fn decode_id(table: Table, row: &Row) -> Result<u64, StoreError> {
    let id = row.key.as_slice().try_into().map(u64::from_be_bytes);
    id.map_err(|_| StoreError::Row { table: table.name(), why: "its key is not an id" })
}

fn join(id: u64, message: Message, delivery: Delivery, fate: Fate) -> Pending {
    let Message { created, destination, topic, payload } = message;
    let Delivery { attempts, next_attempt, last_error } = delivery;
    let dead = fate == Fate::Dead;
    Pending { id, destination, topic, payload, created, attempts, next_attempt, last_error, dead }
}

fn text(cursor: &mut Cursor<'_>) -> Option<String> {
    let length = cursor.u16()?;
    String::from_utf8(cursor.take(usize::from(length))?.to_vec()).ok()
}
