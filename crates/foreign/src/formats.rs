//! Objects of a store: what is decoded is what is encoded and decoded again.

use gabion_store_core::{
    ErrorKind, Result,
    format::{
        boot_trace::BootTrace,
        catalog::Catalog,
        checkpoint::Checkpoint,
        codec::{Codec, Encoded},
        descriptor::Descriptor,
        image_map::{self, ImageMap, MappedChunk},
        locator::{self, Locator, LocatorHeader},
        node::Node,
        pack::{self, Contents, EntryHeader, Trailer},
        rows::{EntryKey, PAGE_LEN},
        tombstone::ImageObject,
    },
    store::Placement,
    types::MapId,
};

const WRITTEN: &str = "what was read can be written";
const READ: &str = "what was written can be read";

/// What was decoded, if it was. What is refused is damaged or too new, and nothing else.
fn accepted<T>(decoded: Result<T>) -> Option<T> {
    decoded
        .inspect_err(|e| {
            assert!(matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported), "{}", e.report());
        })
        .ok()
}

/// Some of many rows, so that looking them up takes no longer than reading them.
fn some<T>(rows: &[T]) -> impl Iterator<Item = &T> {
    rows.iter().step_by(rows.len() / 16 + 1)
}

/// A boot trace.
pub(crate) fn boot_trace(bytes: &[u8]) {
    // Its name is part of it.
    let name = bytes.get(16..32).and_then(|id| id.try_into().ok());
    let id = MapId::from_bytes(name.unwrap_or_default());
    if let Some(trace) = accepted(BootTrace::decode(id, bytes)) {
        assert_eq!(BootTrace::decode(id, &trace.encode(id)).expect(READ), trace);
    }
}

/// A catalog.
pub(crate) fn catalog(bytes: &[u8]) {
    let _ = Catalog::check_write(bytes);
    if let Some(catalog) = accepted(Catalog::decode(bytes)) {
        let again = catalog.encode().expect(WRITTEN);
        assert_eq!(again.len(), bytes.len());
        assert_eq!(Catalog::decode(&again).expect(READ), catalog);
    }
}

/// A checkpoint.
pub(crate) fn checkpoint(bytes: &[u8]) {
    if let Some(checkpoint) = accepted(Checkpoint::decode(bytes)) {
        let (_, again) = checkpoint.encode().expect(WRITTEN);
        assert_eq!(Checkpoint::decode(&again).expect(READ), checkpoint);
    }
}

/// A stored entry, behind a codec and a length: it gives as many bytes as are claimed, or an error.
pub(crate) fn codec(bytes: &[u8]) {
    let [codec, a, b, c, stored @ ..] = bytes else { return };
    let Some(codec) = Codec::from_byte(*codec) else { return };
    let raw_len = u32::from_le_bytes([*a, *b, *c, 0]);
    let entry = Encoded { codec, raw_len, bytes: bytes::Bytes::copy_from_slice(stored) };
    if let Some(raw) = accepted(entry.decode()) {
        assert_eq!(raw.len(), raw_len as usize);
    }
}

/// The descriptor of a store, which is JSON.
pub(crate) fn descriptor(bytes: &[u8]) {
    if let Ok(descriptor) = Descriptor::decode(bytes) {
        assert_eq!(Descriptor::decode(descriptor.encode().as_bytes()).expect(READ), descriptor);
    }
}

/// An image map, whole and page by page.
pub(crate) fn image_map(bytes: &[u8]) {
    accepted(image_map::decode_all(bytes));
    let Some(map) = accepted(ImageMap::of(bytes)) else { return };
    let Some(nodes) = accepted(map.all_nodes(bytes)) else { return };
    let Some(chunks) = accepted(map.all_chunks(bytes).collect::<Result<Vec<_>>>()) else { return };
    let chunks = chunks.concat();
    // Where rows are out of order, or the directory is wrong, one may be overlooked, but not mistaken.
    look_up(bytes, &map, &nodes, &chunks, false);
    if let Ok(again) = image_map::encode(map.header().id, &nodes, &chunks) {
        let (map, rows) = image_map::decode_all(&again).expect(READ);
        assert_eq!(rows, (nodes, chunks));
        look_up(&again, &map, &rows.0, &rows.1, true);
    }
}

/// Looks for each row of a map, as a reader does that has only its directory.
fn look_up(
    bytes: &[u8],
    map: &ImageMap,
    nodes: &[(EntryKey, Placement)],
    chunks: &[MappedChunk],
    finds_all: bool,
) {
    let page = |at: u64| bytes.get(at as usize..at as usize + PAGE_LEN).expect("its length was checked");
    for (key, _) in some(nodes) {
        let found = map.node_pages(key).find_map(|number| {
            let page = page(map.node_page_offset(number));
            map.find_node(number, page, key).expect("it was read before")
        });
        assert!(found.map_or(!finds_all, |found| nodes.contains(&(*key, found))));
    }
    for chunk in some(chunks) {
        let mut pages = map.chunk_pages(chunk.first_block, chunk.first_block.saturating_add(1));
        let found = pages.any(|number| {
            let rows = map.chunks(number, page(map.chunk_page_offset(number)));
            rows.expect("it was read before").contains(chunk)
        });
        assert!(found || !finds_all);
    }
}

/// The object in the place of an image: its record, or the tombstone of one.
pub(crate) fn image_record(bytes: &[u8]) {
    let _ = ImageObject::check_write(bytes);
    let Some(object) = accepted(ImageObject::decode(bytes)) else { return };
    let again = match &object {
        ImageObject::Record(record) => record.encode().expect(WRITTEN),
        ImageObject::Removed(tombstone) => tombstone.encode(),
    };
    assert_eq!(ImageObject::decode(&again).expect(READ), object);
}

/// A locator, whole and page by page.
pub(crate) fn locator(bytes: &[u8]) {
    accepted(locator::decode_all(bytes));
    let Some((head, behind)) = bytes.split_at_checked(LocatorHeader::LEN) else { return };
    let Some(header) = accepted(LocatorHeader::decode(head, bytes.len() as u64)) else { return };
    let directory = behind.get(..header.directory_len()).expect("its length was checked");
    let Some(table) = accepted(Locator::decode(header, directory)) else { return };
    let page = |number: u32| {
        let at = table.page_offset(number) as usize;
        table.check_page(number, bytes.get(at..at + PAGE_LEN).expect("its length was checked"))
    };
    let mut entries = Vec::new();
    for number in 0..table.pages() {
        let Some(rows) = accepted(page(number)) else { return };
        let Some(read) = accepted(table.rows(rows).collect::<Result<Vec<_>>>()) else { return };
        entries.extend(read);
    }
    assert_eq!(entries.len(), table.entries() as usize);
    for (key, _) in some(&entries) {
        for number in table.pages_of(key) {
            let found = table.search(page(number).expect("it was read before"), key);
            let found = found.expect("all rows were read before");
            assert!(found.is_none_or(|found| entries.contains(&(*key, found))));
        }
    }
    if let Ok(again) = locator::encode(table.id(), &entries) {
        assert_eq!(locator::decode_all(&again).expect(READ).1, entries);
    }
}

/// An index node. It is named by its hash, so every node has one encoding only.
pub(crate) fn node(bytes: &[u8]) {
    if let Some(node) = accepted(Node::decode(bytes)) {
        assert_eq!(node.encode(), bytes);
    }
}

/// A pack: its head, the entries as a scan finds them, and its table of contents.
pub(crate) fn pack(bytes: &[u8]) {
    let _ = pack::decode_header(bytes);
    let mut end = pack::HEADER_LEN as u64;
    for found in pack::scan(bytes.get(pack::HEADER_LEN..).unwrap_or_default(), end) {
        assert_eq!(found.entry.offset, end + pack::ENTRY_HEADER_LEN as u64);
        assert_eq!(found.stored.len(), found.entry.stored_len as usize);
        end = found.entry.end();
        assert!(end <= bytes.len() as u64);
    }
    if let Some(Ok(header)) = bytes.first_chunk().map(EntryHeader::decode) {
        assert_eq!(EntryHeader::decode(&header.encode()).expect(READ), header);
    }
    let Some((body, trailer)) = bytes.split_at_checked(bytes.len().saturating_sub(Trailer::LEN)) else {
        return;
    };
    let Some(trailer) = accepted(Trailer::decode(trailer, bytes.len() as u64)) else { return };
    let table = body.get(trailer.contents_at as usize..).expect("it points into its pack");
    let Some(contents) = accepted(Contents::decode(table, &trailer)) else { return };
    assert_eq!(contents.entries().len(), trailer.count as usize);
    assert!(contents.entries().iter().all(|entry| contents.find(&entry.key) == Some(entry)));
    let sealed = contents.seal(trailer.pack);
    let (table, tail) = sealed.split_at(sealed.len() - Trailer::LEN);
    let tail = Trailer::decode(tail, bytes.len() as u64).expect(READ);
    assert_eq!(Contents::decode(table, &tail).expect(READ), contents);
}
