package bench.streams;

import ai.onnxruntime.OrtException;
import bench.scoring.Batch;
import bench.scoring.Model;
import bench.scoring.Settings;
import java.time.Duration;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.processor.api.FixedKeyProcessor;
import org.apache.kafka.streams.processor.api.FixedKeyProcessorSupplier;
import org.apache.kafka.streams.state.StoreBuilder;

/**
 * Kafka Streams with ONNX Runtime inside, one stream thread.
 *
 * <p>Kafka Streams hands over record after record, and a model wants batches. A processor per partition gathers up to
 * {@value #BATCH_SIZE} records, parses each as it comes into a direct buffer, and scores them when the batch is full
 * or {@value #LONGEST_WAIT_MS} ms of wall clock have passed. What it holds is forwarded before each commit ({@link
 * BeforeCommit}); without that the guarantees below would not hold.
 *
 * <p>BENCH_DELIVERY:
 *
 * <ul>
 *   <li>{@code at_least_once}: commits every second, as Headrace does (the default is 30 s). A crash repeats up to
 *       that much.
 *   <li>{@code exactly_once}: {@code exactly_once_v2}, a transaction every 100 ms, which is the default and Headrace's.
 *   <li>{@code one_by_one}: at least once with a batch size of one: what the library offers without internals.
 * </ul>
 *
 * <p>Tuned: producer batches of {@value #PRODUCER_BATCH_BYTES} bytes with {@value #LINGER_MS} ms of linger (the
 * default of Kafka Streams is 100 ms), no compression, and a poll that returns after {@value #LONGEST_WAIT_MS} ms, so
 * that the punctuator fires when nothing comes. {@code jvm.options} has the options for the JVM.
 */
public final class Main {
  private static final int BATCH_SIZE = 512;
  private static final int LONGEST_WAIT_MS = 2;
  private static final int LINGER_MS = 1;
  private static final int PRODUCER_BATCH_BYTES = 131_072;
  private static final Map<String, String> GUARANTEES =
      Map.of(
          "at_least_once", StreamsConfig.AT_LEAST_ONCE,
          "exactly_once", StreamsConfig.EXACTLY_ONCE_V2,
          "one_by_one", StreamsConfig.AT_LEAST_ONCE);

  private Main() {}

  public static void main(String[] arguments) throws OrtException {
    Settings settings = Settings.fromEnvironment();
    if (!GUARANTEES.containsKey(settings.delivery())) {
      throw new IllegalArgumentException("BENCH_DELIVERY is none of " + GUARANTEES.keySet());
    }
    Model model = new Model(settings.model());
    KafkaStreams streams = new KafkaStreams(topology(settings, model), properties(settings));
    streams.setUncaughtExceptionHandler(
        fault -> {
          fault.printStackTrace();
          new Thread(() -> System.exit(1)).start();
          return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
    Runtime.getRuntime().addShutdownHook(new Thread(() -> streams.close(Duration.ofSeconds(20))));
    streams.start();
  }

  private static Topology topology(Settings settings, Model model) {
    int size = settings.delivery().equals("one_by_one") ? 1 : BATCH_SIZE;
    FixedKeyProcessorSupplier<byte[], byte[], byte[]> scoring =
        new FixedKeyProcessorSupplier<>() {
          @Override
          public FixedKeyProcessor<byte[], byte[], byte[]> get() {
            Batch batch = new Batch(model, settings.fields(), settings.id(), size);
            return new ScoringProcessor(batch, Duration.ofMillis(LONGEST_WAIT_MS));
          }

          @Override
          public Set<StoreBuilder<?>> stores() {
            return Set.of(new BeforeCommit.Builder());
          }
        };
    StreamsBuilder builder = new StreamsBuilder();
    builder.stream(settings.input(), Consumed.with(Serdes.ByteArray(), Serdes.ByteArray()))
        .processValues(scoring)
        .to(settings.output(), Produced.with(Serdes.ByteArray(), Serdes.ByteArray()));
    return builder.build();
  }

  private static Properties properties(Settings settings) {
    String guarantee = GUARANTEES.get(settings.delivery());
    Properties properties = new Properties();
    properties.put(StreamsConfig.APPLICATION_ID_CONFIG, settings.group());
    properties.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, settings.bootstrap());
    properties.put(StreamsConfig.STATE_DIR_CONFIG, settings.state());
    properties.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
    properties.put(StreamsConfig.POLL_MS_CONFIG, LONGEST_WAIT_MS);
    properties.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, guarantee);
    properties.put(
        StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, guarantee.equals(StreamsConfig.EXACTLY_ONCE_V2) ? 100 : 1000);
    properties.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
    properties.put(StreamsConfig.producerPrefix(ProducerConfig.LINGER_MS_CONFIG), LINGER_MS);
    properties.put(StreamsConfig.producerPrefix(ProducerConfig.BATCH_SIZE_CONFIG), PRODUCER_BATCH_BYTES);
    return properties;
  }
}
