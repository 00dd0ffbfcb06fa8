package bench.loop;

import bench.scoring.Batch;
import bench.scoring.Model;
import bench.scoring.Settings;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;

/**
 * A hand-tuned micro-batch loop on Kafka's own Java clients: what is left when every layer is taken away.
 *
 * <p>One thread polls, parses into a direct buffer, runs the model on up to {@value #BATCH_SIZE} records and hands the
 * outputs to the producer, which sends them in the background to the partition that each record came from. Nothing
 * waits for a fuller batch: what a poll brings is scored at once.
 *
 * <p>BENCH_DELIVERY:
 *
 * <ul>
 *   <li>{@code at_least_once}: once a second the producer is flushed and the offsets are committed. A crash repeats
 *       up to that much.
 *   <li>{@code exactly_once}: outputs and offsets in transactions of 100 ms, fenced by the group's metadata.
 * </ul>
 *
 * <p>Any failure ends the process; the next one starts at the last commit.
 */
public final class Main {
  private static final int BATCH_SIZE = 512;

  private Main() {}

  public static void main(String[] arguments) throws Exception {
    Settings settings = Settings.fromEnvironment();
    boolean exactlyOnce =
        switch (settings.delivery()) {
          case "at_least_once" -> false;
          case "exactly_once" -> true;
          default -> throw new IllegalArgumentException("BENCH_DELIVERY is neither at_least_once nor exactly_once");
        };
    CountDownLatch ended = new CountDownLatch(1);
    try (Model model = new Model(settings.model());
        Loop loop = new Loop(settings, new Batch(model, settings.fields(), settings.id(), BATCH_SIZE), exactlyOnce)) {
      Runtime.getRuntime().addShutdownHook(new Thread(() -> end(loop, ended)));
      loop.run();
    } finally {
      ended.countDown();
    }
  }

  private static void end(Loop loop, CountDownLatch ended) {
    loop.stop();
    try {
      ended.await(20, TimeUnit.SECONDS);
    } catch (InterruptedException interrupted) {
      Thread.currentThread().interrupt();
    }
  }
}
