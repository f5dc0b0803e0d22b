package clients;

import java.time.Duration;
import java.util.concurrent.Callable;

/** What programs in Java do with a cluster, by the project's own client and by fabric8's. The first argument is a kubeconfig. */
public final class Main {
    private static final Duration DEADLINE = Duration.ofSeconds(60);

    private Main() {}

    public static void main(String[] arguments) throws Exception {
        Official.play(arguments[0]);
        Fabric8.play(arguments[0]);
        System.out.println("everything held");
        // Threads of the clients' pools would keep the program.
        System.exit(0);
    }

    static void check(boolean holds, String what) {
        if (!holds) {
            throw new AssertionError(what);
        }
    }

    static void same(Object found, Object wanted, String what) {
        check(java.util.Objects.equals(found, wanted), what + ": " + found + ", and not " + wanted);
    }

    /** Asks until something is so. */
    static void until(String what, Callable<Boolean> is) throws Exception {
        long end = System.nanoTime() + DEADLINE.toNanos();
        while (!is.call()) {
            check(System.nanoTime() < end, what + " did not come about");
            Thread.sleep(20);
        }
    }
}
