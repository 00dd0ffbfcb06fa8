package bench.streams;

import ai.onnxruntime.OrtException;
import bench.scoring.Batch;
import java.io.IOException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import org.apache.kafka.streams.errors.StreamsException;
import org.apache.kafka.streams.processor.PunctuationType;
import org.apache.kafka.streams.processor.api.FixedKeyProcessor;
import org.apache.kafka.streams.processor.api.FixedKeyProcessorContext;
import org.apache.kafka.streams.processor.api.FixedKeyRecord;
import org.apache.kafka.streams.processor.internals.InternalProcessorContext;
import org.apache.kafka.streams.processor.internals.ProcessorNode;
import org.apache.kafka.streams.processor.internals.ProcessorRecordContext;

/**
 * Gathers the records of one partition and scores them together: when the batch is full, when the punctuator fires,
 * and before each commit. Outputs are forwarded in the order of their records.
 */
final class ScoringProcessor implements FixedKeyProcessor<byte[], byte[], byte[]> {
  private final Batch batch;
  private final Duration longestWait;
  private final List<FixedKeyRecord<byte[], byte[]>> records = new ArrayList<>();
  private FixedKeyProcessorContext<byte[], byte[]> context;
  private InternalProcessorContext<?, ?> internals;
  private ProcessorNode<?, ?, ?, ?> node;
  private ProcessorRecordContext lastRecord;

  ScoringProcessor(Batch batch, Duration longestWait) {
    this.batch = batch;
    this.longestWait = longestWait;
  }

  @Override
  public void init(FixedKeyProcessorContext<byte[], byte[]> context) {
    this.context = context;
    internals = (InternalProcessorContext<?, ?>) context;
    node = internals.currentNode();
    context.schedule(longestWait, PunctuationType.WALL_CLOCK_TIME, now -> forwardAll());
    BeforeCommit store = context.getStateStore(BeforeCommit.NAME);
    store.notify(this::forwardAllOutsideOfProcessing, this::drop);
  }

  @Override
  public void process(FixedKeyRecord<byte[], byte[]> record) {
    try {
      batch.add(record.value());
    } catch (IOException fault) {
      throw new StreamsException(fault);
    }
    records.add(record);
    lastRecord = internals.recordContext();
    if (batch.isFull()) {
      forwardAll();
    }
  }

  private void forwardAll() {
    if (records.isEmpty()) {
      return;
    }
    try {
      batch.score();
      for (int row = 0; row < records.size(); row++) {
        context.forward(records.get(row).withValue(batch.output(row)));
      }
    } catch (IOException | OrtException fault) {
      throw new StreamsException(fault);
    }
    drop();
  }

  /** Forwarding needs to know whose children are meant; a commit, unlike a punctuator, does not say so by itself. */
  private void forwardAllOutsideOfProcessing() {
    ProcessorNode<?, ?, ?, ?> nodeBefore = internals.currentNode();
    ProcessorRecordContext recordBefore = internals.recordContext();
    internals.setCurrentNode(node);
    internals.setRecordContext(lastRecord);
    try {
      forwardAll();
    } finally {
      internals.setCurrentNode(nodeBefore);
      internals.setRecordContext(recordBefore);
    }
  }

  private void drop() {
    batch.clear();
    records.clear();
  }
}
