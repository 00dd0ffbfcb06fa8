package bench.scoring;

import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtSession;
import java.nio.FloatBuffer;
import java.util.Map;

/** An ONNX model from {@code features [n, columns]} to {@code score [n]} or {@code [n, 1]}, on one thread. */
public final class Model implements AutoCloseable {
  private final OrtEnvironment environment = OrtEnvironment.getEnvironment();
  private final OrtSession session;

  public Model(String path) throws OrtException {
    try (OrtSession.SessionOptions options = new OrtSession.SessionOptions()) {
      options.setIntraOpNumThreads(1);
      options.setInterOpNumThreads(1);
      session = environment.createSession(path, options);
    }
  }

  /** The scores of {@code rows} rows; {@code features} is a direct buffer, which the runtime reads in place. */
  public FloatBuffer scores(FloatBuffer features, int rows, int columns) throws OrtException {
    FloatBuffer filled = features.duplicate().position(0).limit(rows * columns);
    try (OnnxTensor input = OnnxTensor.createTensor(environment, filled, new long[] {rows, columns});
        OrtSession.Result result = session.run(Map.of("features", input))) {
      return ((OnnxTensor) result.get("score").orElseThrow()).getFloatBuffer();
    }
  }

  @Override
  public void close() throws OrtException {
    session.close();
  }
}
