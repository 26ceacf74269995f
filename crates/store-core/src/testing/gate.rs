//! [`Gate`]: holds calls until a test lets them go. No sleeps: both sides wait for the other.

use tokio::sync::watch;

/// Closed until it is opened, and open from then on.
#[derive(Debug)]
pub struct Gate {
    arrived: watch::Sender<usize>,
    open: watch::Sender<bool>,
}

impl Gate {
    /// A closed gate.
    pub fn new() -> Self {
        Self { arrived: watch::Sender::new(0), open: watch::Sender::new(false) }
    }

    /// Arrives, and waits until the gate is open. May be dropped; the arrival stays counted.
    pub async fn pass(&self) {
        self.arrived.send_modify(|arrived| *arrived += 1);
        self.open.subscribe().wait_for(|open| *open).await.expect("the gate holds its own sender");
    }

    /// Waits until that many calls have arrived.
    pub async fn arrived(&self, count: usize) {
        let mut arrived = self.arrived.subscribe();
        arrived.wait_for(|arrived| *arrived >= count).await.expect("the gate holds its own sender");
    }

    /// Lets all through that wait or come later.
    pub fn open(&self) {
        self.open.send_replace(true);
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}
