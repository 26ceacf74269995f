/// placeholder
#[derive(Debug)]
pub struct BlockStates;
