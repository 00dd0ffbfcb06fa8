package bench.scoring;

import ai.onnxruntime.OrtException;
import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonGenerator;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import com.fasterxml.jackson.core.StreamReadFeature;
import com.fasterxml.jackson.core.StreamWriteFeature;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.util.HashMap;
import java.util.Map;

/**
 * Events read into one direct buffer, and their outputs. Jackson's streaming parser visits each event once and builds
 * no tree; only the fields of the model and the id are looked at. Not thread-safe.
 */
public final class Batch {
  private static final JsonFactory JSON =
      JsonFactory.builder()
          .enable(StreamReadFeature.USE_FAST_DOUBLE_PARSER)
          .enable(StreamWriteFeature.USE_FAST_DOUBLE_WRITER)
          .build();

  private final Model model;
  private final String idField;
  private final Map<String, Integer> columns = new HashMap<>();
  private final FloatBuffer features;
  private final String[] ids;
  private final boolean[] quoted;
  private final ByteArrayOutputStream output = new ByteArrayOutputStream(256);
  private int size;
  private FloatBuffer scores;

  public Batch(Model model, String[] fields, String idField, int capacity) {
    this.model = model;
    this.idField = idField;
    for (int column = 0; column < fields.length; column++) {
      columns.put(fields[column], column);
    }
    features =
        ByteBuffer.allocateDirect(capacity * fields.length * Float.BYTES)
            .order(ByteOrder.nativeOrder())
            .asFloatBuffer();
    ids = new String[capacity];
    quoted = new boolean[capacity];
  }

  public int size() {
    return size;
  }

  public boolean isFull() {
    return size == ids.length;
  }

  /** Forgets all events. */
  public void clear() {
    size = 0;
  }

  /** Reads one event; it must have every field of the model, as a number, and the id. */
  public void add(byte[] event) throws IOException {
    int row = size * columns.size();
    int missing = columns.size();
    ids[size] = null;
    try (JsonParser parser = JSON.createParser(event)) {
      parser.nextToken();
      for (String name = parser.nextFieldName(); name != null; name = parser.nextFieldName()) {
        JsonToken token = parser.nextToken();
        Integer column = columns.get(name);
        if (column != null) {
          features.put(row + column, parser.getFloatValue());
          missing--;
        } else if (name.equals(idField)) {
          ids[size] = parser.getText();
          quoted[size] = token == JsonToken.VALUE_STRING;
        } else {
          parser.skipChildren();
        }
      }
    }
    if (missing != 0 || ids[size] == null) {
      throw new IOException("an event lacks " + missing + " of the model's fields, or " + idField);
    }
    size++;
  }

  /** Runs the model on what was added. */
  public void score() throws OrtException {
    scores = model.scores(features, size, columns.size());
  }

  /** The output of one event, after {@link #score}. */
  public byte[] output(int row) throws IOException {
    output.reset();
    try (JsonGenerator generator = JSON.createGenerator(output)) {
      generator.writeStartObject();
      generator.writeFieldName(idField);
      if (quoted[row]) {
        generator.writeString(ids[row]);
      } else {
        generator.writeRawValue(ids[row]);
      }
      generator.writeNumberField("score", scores.get(row));
      generator.writeEndObject();
    }
    return output.toByteArray();
  }
}
