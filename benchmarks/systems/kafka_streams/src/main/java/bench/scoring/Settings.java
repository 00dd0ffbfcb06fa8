package bench.scoring;

/** What the harness asks for, read from the environment. */
public record Settings(
    String bootstrap,
    String input,
    String output,
    String group,
    String model,
    String[] fields,
    String id,
    String delivery,
    String state) {

  /** The settings of this process; a variable that is missing ends it. */
  public static Settings fromEnvironment() {
    return new Settings(
        variable("BENCH_BOOTSTRAP"),
        variable("BENCH_INPUT"),
        variable("BENCH_OUTPUT"),
        variable("BENCH_GROUP"),
        variable("BENCH_MODEL"),
        variable("BENCH_FIELDS").split(","),
        variable("BENCH_ID"),
        variable("BENCH_DELIVERY"),
        variable("BENCH_STATE"));
  }

  private static String variable(String name) {
    String value = System.getenv(name);
    if (value == null) {
      throw new IllegalArgumentException(name + " is not set");
    }
    return value;
  }
}
