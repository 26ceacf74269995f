/// placeholder
#[derive(Debug)]
pub struct MemoryOverlay;
