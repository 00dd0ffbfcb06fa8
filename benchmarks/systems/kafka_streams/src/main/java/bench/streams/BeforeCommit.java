package bench.streams;

import java.util.Map;
import org.apache.kafka.streams.processor.StateStore;
import org.apache.kafka.streams.processor.StateStoreContext;
import org.apache.kafka.streams.state.StoreBuilder;
import org.apache.kafka.streams.state.internals.CacheFlushListener;
import org.apache.kafka.streams.state.internals.CachedStateStore;

/**
 * A store that keeps nothing: it is there to be told that a commit is due.
 *
 * <p>Kafka Streams commits a record's offset once {@code process} returned, also that of a record which a processor
 * still holds back. Before it flushes its producer and commits, at every commit, revocation and close, it flushes the
 * stores that have a cache; so a processor with such a store can forward what it holds in time. The interface is one
 * of the library's internals; the public ones offer no such moment.
 */
final class BeforeCommit implements StateStore, CachedStateStore<byte[], byte[]> {
  static final String NAME = "before-commit";

  private Runnable flush = () -> {};
  private Runnable drop = () -> {};
  private boolean open;

  /** Calls {@code flush} before each commit, and {@code drop} where the task starts again from the last one. */
  void notify(Runnable flush, Runnable drop) {
    this.flush = flush;
    this.drop = drop;
  }

  @Override
  public void flushCache() {
    flush.run();
  }

  @Override
  public void clearCache() {
    drop.run();
  }

  @Override
  public boolean setFlushListener(CacheFlushListener<byte[], byte[]> listener, boolean sendOldValues) {
    return false;
  }

  @Override
  public String name() {
    return NAME;
  }

  @Override
  public void init(StateStoreContext context, StateStore root) {
    context.register(root, (key, value) -> {});
    open = true;
  }

  @Override
  public void close() {
    open = false;
  }

  @Override
  public boolean persistent() {
    return false;
  }

  @Override
  public boolean isOpen() {
    return open;
  }

  /** Builds the store without a changelog. */
  static final class Builder implements StoreBuilder<BeforeCommit> {
    @Override
    public BeforeCommit build() {
      return new BeforeCommit();
    }

    @Override
    public String name() {
      return NAME;
    }

    @Override
    public boolean loggingEnabled() {
      return false;
    }

    @Override
    public Map<String, String> logConfig() {
      return Map.of();
    }

    @Override
    public StoreBuilder<BeforeCommit> withCachingEnabled() {
      return this;
    }

    @Override
    public StoreBuilder<BeforeCommit> withCachingDisabled() {
      return this;
    }

    @Override
    public StoreBuilder<BeforeCommit> withLoggingEnabled(Map<String, String> config) {
      return this;
    }

    @Override
    public StoreBuilder<BeforeCommit> withLoggingDisabled() {
      return this;
    }
  }
}
