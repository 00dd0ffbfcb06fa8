package bench.loop;

import ai.onnxruntime.OrtException;
import bench.scoring.Batch;
import bench.scoring.Settings;
import java.io.IOException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.WakeupException;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/** Polls, scores, produces and commits on the calling thread until {@link #stop}. */
final class Loop implements AutoCloseable, ConsumerRebalanceListener {
  private static final long COMMIT_INTERVAL_NS = Duration.ofSeconds(1).toNanos();
  private static final long TRANSACTION_INTERVAL_NS = Duration.ofMillis(100).toNanos();
  private static final Duration IDLE_POLL = Duration.ofMillis(100);

  private final String input;
  private final String output;
  private final boolean exactlyOnce;
  private final long intervalNs;
  private final Batch batch;
  private final List<ConsumerRecord<byte[], byte[]>> records = new ArrayList<>();
  private final Map<TopicPartition, OffsetAndMetadata> positions = new HashMap<>();
  private final KafkaConsumer<byte[], byte[]> consumer;
  private final KafkaProducer<byte[], byte[]> producer;
  private volatile boolean running = true;
  private volatile Exception undelivered;
  private long begunAt;

  Loop(Settings settings, Batch batch, boolean exactlyOnce) {
    this.batch = batch;
    this.exactlyOnce = exactlyOnce;
    input = settings.input();
    output = settings.output();
    intervalNs = exactlyOnce ? TRANSACTION_INTERVAL_NS : COMMIT_INTERVAL_NS;
    consumer = new KafkaConsumer<>(consumerOptions(settings), new ByteArrayDeserializer(), new ByteArrayDeserializer());
    producer =
        new KafkaProducer<>(
            producerOptions(settings, exactlyOnce), new ByteArraySerializer(), new ByteArraySerializer());
  }

  /** Finish what was polled, deliver and commit it; may be called from any thread. */
  void stop() {
    running = false;
    consumer.wakeup();
  }

  void run() throws IOException, OrtException {
    if (exactlyOnce) {
      producer.initTransactions();
    }
    consumer.subscribe(List.of(input), this);
    try {
      while (running) {
        for (ConsumerRecord<byte[], byte[]> record : consumer.poll(untilCommit())) {
          add(record);
        }
        score();
        if (!positions.isEmpty() && System.nanoTime() - begunAt >= intervalNs) {
          commit();
        }
      }
    } catch (WakeupException stopped) {
      // a poll or a commit was interrupted by stop(); close() commits
    } catch (IOException | OrtException | RuntimeException fault) {
      positions.clear(); // close() must not commit what was not scored
      throw fault;
    }
  }

  @Override
  public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
    commit();
  }

  @Override
  public void onPartitionsAssigned(Collection<TopicPartition> partitions) {}

  @Override
  public void onPartitionsLost(Collection<TopicPartition> partitions) {
    throw new KafkaException("the group gave the partitions away");
  }

  /** Leaves the group, which commits through {@link #onPartitionsRevoked}, unless {@link #run} failed. */
  @Override
  public void close() {
    consumer.close();
    producer.close();
  }

  private Duration untilCommit() {
    if (positions.isEmpty()) {
      return IDLE_POLL;
    }
    return Duration.ofNanos(Math.max(0, begunAt + intervalNs - System.nanoTime()));
  }

  private void add(ConsumerRecord<byte[], byte[]> record) throws IOException, OrtException {
    if (positions.isEmpty()) {
      begunAt = System.nanoTime();
      if (exactlyOnce) {
        producer.beginTransaction();
      }
    }
    batch.add(record.value());
    records.add(record);
    positions.put(
        new TopicPartition(record.topic(), record.partition()), new OffsetAndMetadata(record.offset() + 1));
    if (batch.isFull()) {
      score();
    }
  }

  private void score() throws IOException, OrtException {
    if (records.isEmpty()) {
      return;
    }
    batch.score();
    for (int row = 0; row < records.size(); row++) {
      ConsumerRecord<byte[], byte[]> record = records.get(row);
      producer.send(
          new ProducerRecord<>(output, record.partition(), record.key(), batch.output(row)),
          (metadata, error) -> {
            if (error != null) {
              undelivered = error;
            }
          });
    }
    batch.clear();
    records.clear();
  }

  private void commit() {
    if (positions.isEmpty()) {
      return;
    }
    if (exactlyOnce) {
      producer.sendOffsetsToTransaction(positions, consumer.groupMetadata());
      producer.commitTransaction();
    } else {
      producer.flush();
      if (undelivered != null) {
        throw new KafkaException("an output was not delivered", undelivered);
      }
      consumer.commitSync(positions);
    }
    positions.clear();
  }

  private static Map<String, Object> consumerOptions(Settings settings) {
    return Map.of(
        ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, settings.bootstrap(),
        ConsumerConfig.GROUP_ID_CONFIG, settings.group(),
        ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest",
        ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, false,
        ConsumerConfig.MAX_POLL_RECORDS_CONFIG, 2048);
  }

  private static Map<String, Object> producerOptions(Settings settings, boolean exactlyOnce) {
    Map<String, Object> options = new HashMap<>();
    options.put(ProducerConfig.BOOTSTRAP_SERVERS_CONFIG, settings.bootstrap());
    options.put(ProducerConfig.LINGER_MS_CONFIG, 1);
    options.put(ProducerConfig.BATCH_SIZE_CONFIG, 131_072);
    if (exactlyOnce) {
      options.put(ProducerConfig.TRANSACTIONAL_ID_CONFIG, settings.group() + "-0");
    }
    return options;
  }
}
