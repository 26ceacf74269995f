//! Layers in memory: states, bytes, and the life of a layer.

use super::*;

#[tokio::test]
async fn writes_zeroes_layers_and_growth() {
    let overlay = MemoryOverlay::new(10 * 4096 + 1);
    let layer = overlay.layers().remove(0);
    layer.write(2, &[7; 3 * BLOCK_SIZE]).unwrap();
    layer.zero(BlockRange::new(3, 4)).unwrap();
    assert_eq!(layer.first_run(BlockRange::new(0, 11)), (BlockState::Base, 2));
    assert_eq!(
        layer.runs(0, 9),
        [
            (BlockRange::new(2, 3), BlockState::Data),
            (BlockRange::new(3, 4), BlockState::Zero),
            (BlockRange::new(4, 5), BlockState::Data)
        ]
    );
    let mut bytes = [0; 100];
    layer.try_read(2 * 4096 + 9, &mut bytes).unwrap().unwrap();
    assert_eq!(bytes, [7; 100]);
    assert!(layer.read(3 * 4096 - 50, &mut bytes).is_err(), "zeros are the state's business");

    let above = overlay.push_layer().await.unwrap();
    above.write(10, &[9; BLOCK_SIZE]).unwrap();
    overlay.grow(20 * 4096).await.unwrap();
    above.write(19, &[9; BLOCK_SIZE]).unwrap();
    assert_eq!(above.data_blocks(), 2);
    assert_eq!(overlay.grow(4096).await.unwrap_err().kind(), crate::ErrorKind::Invalid);
    assert_eq!(overlay.layers().len(), 2);

    let base = CheckpointId::from_bytes([1; 32]);
    assert!(overlay.rebase(base, 2).await.is_err());
    overlay.rebase(base, 1).await.unwrap();
    assert_eq!(overlay.layers().len(), 1);
    assert_eq!(overlay.layers()[0].data_blocks(), 2);
    overlay.flush().await.unwrap();
    assert!(!overlay.is_durable());
}
